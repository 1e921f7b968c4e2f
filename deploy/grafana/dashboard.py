"""Makes dashboard.json, the Grafana dashboard of queue_trio's metrics: `python -m deploy.grafana.dashboard`.

What it shows is in `rows`; here is what Grafana wants around that. A test holds the file to this code, and runs every
query on a real Prometheus. Imports nothing of queue_trio, and is no part of its package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deploy.grafana.panels import JOB, WIDTH
from deploy.grafana.rows import ROWS

if TYPE_CHECKING:
    from deploy.grafana.panels import Panel, Query

FILE: Final = Path(__file__).with_name("dashboard.json")

SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's JSON model."""
    return {
        "annotations": {"list": []},
        "description": "queue_trio: queues as Redis tells, workers as they tell themselves.",
        "editable": True,
        "graphTooltip": 1,
        "links": [],
        "panels": list(_panels()),
        "refresh": "10s",
        "schemaVersion": 38,
        "tags": ["queue_trio"],
        "templating": {
            "list": [
                _source_variable(),
                _variable("job", "Installation", "label_values(queue_trio_build_info, job)"),
                _variable("instance", "Worker", f"label_values(queue_trio_build_info{{{JOB}}}, instance)"),
                _variable("queue", "Queue", f"label_values(queue_trio_queue_lengths_stale{{{JOB}}}, queue)"),
            ]
        },
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "title": "queue_trio",
        "uid": "queue-trio",
    }


def encoded() -> str:
    """What dashboard.json holds."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


def _panels() -> list[dict[str, Any]]:
    """Rows and panels from left to right, from top to bottom."""
    made: list[dict[str, Any]] = []
    top = 0
    for row in ROWS:
        made.append(
            _placed({"type": "row", "title": row.title, "collapsed": False, "panels": []}, 0, top, WIDTH, 1)
        )
        top += 1
        left = line = 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                left, top, line = 0, top + line, 0
            made.append(_placed(_panel(panel), left, top, panel.width, panel.height))
            left, line = left + panel.width, max(line, panel.height)
        top += line
    return [{"id": number, **panel} for number, panel in enumerate(made, 1)]


def _placed(panel: dict[str, Any], left: int, top: int, width: int, height: int) -> dict[str, Any]:
    return {**panel, "gridPos": {"h": height, "w": width, "x": left, "y": top}}


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
        "targets": [_target(panel, query, at) for at, query in enumerate(panel.queries)],
    }


def _target(panel: Panel, query: Query, at: int) -> dict[str, Any]:
    table = panel.kind == "table"
    return {
        "datasource": SOURCE,
        "expr": query.expr,
        "format": "table" if table else "time_series",
        "instant": table,
        "legendFormat": query.legend or "__auto",
        "range": not table,
        "refId": chr(ord("A") + at),
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "mappings": _mappings(panel)}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 10,
            "spanNulls": False,  # a gap is the truth: nobody knew
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    if panel.kind == "stat":
        defaults["color"] = {"mode": "thresholds"}
        defaults["thresholds"] = {"mode": "absolute", "steps": _steps(panel)}
    return defaults


def _mappings(panel: Panel) -> list[dict[str, Any]]:
    """Words in place of numbers."""
    if not panel.words:
        return []
    words = {
        str(at): {"text": text, "color": color, "index": at} for at, (text, color) in enumerate(panel.words)
    }
    return [{"type": "value", "options": words}]


def _steps(panel: Panel) -> list[dict[str, Any]]:
    """Colours from a value on; the first one has none, and goes to the bottom."""
    if panel.red_below is not None:
        return [{"color": "red", "value": None}, {"color": "green", "value": panel.red_below}]
    if panel.red_from is not None:
        return [{"color": "green", "value": None}, {"color": "red", "value": panel.red_from}]
    return [{"color": "blue", "value": None}]


def _options(panel: Panel) -> dict[str, Any]:
    match panel.kind:
        case "stat":
            reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
            return {"colorMode": "value", "graphMode": "area", "reduceOptions": reduced}
        case "timeseries":
            legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        case "state-timeline":
            return {"showValue": "auto", "mergeValues": True}
        case "table":
            return {"showHeader": True}


def _source_variable() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
        "includeAll": False,
        "multi": False,
    }


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    """Values as Prometheus knows them when the time range changes; all of them until somebody chooses."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{name}"},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "includeAll": True,
        "multi": True,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


if __name__ == "__main__":
    FILE.write_text(encoded(), "utf-8")
