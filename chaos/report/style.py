"""The style sheet of the page: light and dark, no font, picture or script from anywhere."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root{--bg:#fff;--fg:#1d2330;--soft:#5d6678;--line:#e4e7ec;--card:#f8f9fb;--mark:#3b5bdb;
--good:#067647;--bad:#c22a1e;--warn:#b25e09;--odd:#8d6bb8;--ok:#3f76d6;--shade:#f0b429;--windowtext:#5c3c00;
--p0:#1c3a86;--p1:#3f76d6;--p2:#87b0f2;--p3:#c3d8fa;--closed:#d5dae3;--amber:#f0a020}
@media(prefers-color-scheme:dark){:root{--bg:#12151c;--fg:#e6e9ef;--soft:#98a2b3;--line:#2b303b;--card:#1a1e27;
--mark:#8da2fb;--good:#47cd89;--bad:#f97066;--warn:#f5a64a;--odd:#b79adf;--ok:#5f93ee;--shade:#c98a1b;--windowtext:#ffe0a3;
--p0:#dfeaff;--p1:#93b8fb;--p2:#4d7fd9;--p3:#2c4c86;--closed:#39404d;--amber:#e0952a}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1128px;margin:0 auto;padding:24px}
header{display:flex;gap:14px;align-items:center;flex-wrap:wrap}
h1{font-size:24px;line-height:1.25;margin:0}h2{font-size:17px;margin:36px 0 10px}
table.narrow{max-width:680px}h3{font-size:13px;margin:14px 0 4px;color:var(--soft);font-weight:600}
.badge{padding:3px 14px;border-radius:99px;font-weight:700;color:var(--bg);background:var(--good);letter-spacing:.03em}
.badge.FAIL{background:var(--bad)}.badge.INVALID{background:var(--warn)}.badge.ERROR{background:var(--odd)}
.soft{color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
p{margin:6px 0}.reasons{margin:14px 0 0;padding:10px 16px 10px 34px;border-left:4px solid var(--bad);
background:var(--card);border-radius:0 8px 8px 0}
.groups{display:grid;grid-template-columns:repeat(auto-fit,minmax(240px,1fr));gap:14px;margin-top:20px}
.group h3{margin-top:0}.group{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 14px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:4px 18px 4px 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
tr:last-child>td{border-bottom:0}th{color:var(--soft);font-weight:500;white-space:nowrap}
td.n,th.n{text-align:right;white-space:nowrap}.group td.n{padding-right:0;font-weight:600}
td.zero{color:var(--soft);font-weight:400!important}td.text{overflow-wrap:anywhere}td.nowrap{white-space:nowrap}
td.what{min-width:340px}ul.proof{margin:0;padding-left:16px}ul.proof li::marker{color:var(--soft)}
.scroll{overflow-x:auto}.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:24px}
pre{margin:6px 0;padding:10px 14px;background:var(--card);border:1px solid var(--line);border-radius:8px;
overflow-x:auto;font:13px/1.5 ui-monospace,monospace}pre.command{user-select:all}
details{margin:6px 0}summary{cursor:pointer}code{font:13px ui-monospace,monospace}
.bullet{position:relative;height:12px;border-radius:3px;background:var(--line);min-width:180px;margin-top:5px}
.bullet i{position:absolute;inset:0 auto 0 0;border-radius:3px;background:var(--ok)}
.bullet i.over{background:var(--bad)}
.bullet b{position:absolute;top:-4px;bottom:-4px;left:75%;width:2px;background:var(--fg)}
svg.timeline{display:block;width:100%;min-width:760px;height:auto;font:12px system-ui,sans-serif}
.grid{stroke:var(--line);stroke-width:1;fill:none}.tick{fill:var(--soft);font-size:11.5px}
svg text{paint-order:stroke;stroke:var(--bg);stroke-width:2.5;stroke-linejoin:round;pointer-events:none}
svg text.fault,svg tspan.key{stroke:none}
.title{fill:var(--fg);font-weight:600}.fault{fill:var(--windowtext);font-size:11.5px;font-weight:600}
.shade{fill:var(--shade);opacity:.13}.window{fill:var(--shade);opacity:.6}
.area.ok,.key.ok{fill:var(--ok)}.area.warn,.key.warn{fill:var(--amber)}.area.bad,.key.bad{fill:var(--bad)}
.area.odd,.key.odd,.band.odd{fill:var(--odd)}.area.p0,.key.p0{fill:var(--p0)}.area.p1,.key.p1{fill:var(--p1)}
.area.p2,.key.p2{fill:var(--p2)}.area.p3,.key.p3{fill:var(--p3)}.stroke.line{stroke:var(--fg);stroke-width:1.5;fill:none}
.key.line{fill:var(--fg)}.band.closed,.key.closed{fill:var(--closed)}.band.open,.key.open{fill:var(--bad)}
.band.half_open,.key.half_open{fill:var(--amber)}
path.mark{stroke:var(--soft);stroke-dasharray:2 3;fill:none}path.mark.drained{stroke:var(--good)}
path.mark.manual{stroke:var(--bad);stroke-dasharray:none}circle.mark{fill:var(--soft)}circle.mark.drained{fill:var(--good)}
circle.mark.manual{fill:var(--bad)}.hit{fill:transparent}.hit:hover{fill:var(--fg);fill-opacity:.1}
@media print{details>*{display:block}}
"""
