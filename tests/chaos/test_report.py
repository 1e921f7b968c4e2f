"""The report of a run: as JSON, in the terminal, and as a page. `drills` has a real browser open it."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from rich.console import Console

from chaos.history import Action, AtRest, Enqueue, Fault, Observation, Run
from chaos.judging.timeline import Stretch, busiest_job, story, timeline, worst_of
from chaos.report import terminal
from chaos.report.page import render_page
from chaos.result import from_json, recovery_words, shown_command, tightest, to_json, without_logins
from chaos.verdict import Counts, Invariant, Judgement, Offender, Proof, Recovery, Verdict
from tests.chaos.sample import JOBS, LOST, START_S, made_up_result
from tests.chaos.tags import Tags

if TYPE_CHECKING:
    from rich.console import RenderableType

    from chaos.history import Event
    from chaos.result import Result

EVIL = "<script>alert('&\"')</script>[bold]"


@pytest.fixture(scope="module")
def result() -> Result:
    return made_up_result()


def passing(result: Result) -> Result:
    """The same run with nothing wrong."""
    judgement = msgspec.structs.replace(
        result.judgement,
        verdict=Verdict.PASS,
        reasons=(),
        counts=msgspec.structs.replace(result.judgement.counts, lost=0),
        invariants=tuple(Invariant(one.letter, one.name, True) for one in result.judgement.invariants),
        recoveries=(Recovery("first success", 0.6, 1.1, "C = T + B + O"),),
    )
    return msgspec.structs.replace(result, judgement=judgement, log_tail=())


def printed(renderable: RenderableType, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# --- JSON ----------------------------------------------------------------------------------------------------------


def test_a_result_comes_back_from_json_as_it_was(result: Result) -> None:
    data = to_json(result)
    assert from_json(data) == result
    assert to_json(from_json(data)) == data


@pytest.mark.parametrize("data", [b"", b"{}", b'{"format": 2}', b"[1]", b"\xff"])
def test_what_is_no_result_is_refused_and_the_file_is_named(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"here\.json: not the result of a chaos run"):
        from_json(data, "here.json")


def test_a_command_can_be_pasted_and_tells_no_password() -> None:
    command = shown_command(["python", "-m", "chaos", "run", "a b", "--redis", "redis://me:hush@host:1/0"])
    assert command == "python -m chaos run 'a b' --redis 'redis://***@host:1/0'"


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:geheim@h:1/0",
        "redis://u:gehe/im@h:1/0",
        "rediss://:gehe'im@h",
        'redis://u:gehe"im@h',
        "redis://u:gehe@im@h",
        "unix:///run/redis.sock?password=geheim",
        "redis://h/0?db=1&password=geheim&username=geheim",
        "--redis=redis://u:geheim@h/0",
    ],
)
def test_no_url_tells_a_login(url: str) -> None:
    told = without_logins(f"{url} is not there; try redis://other/0")
    assert "gehe" not in told
    assert "im" not in told.partition(" is not")[0]
    assert told.endswith("is not there; try redis://other/0")


def test_the_tightest_recovery_is_the_one_nearest_to_its_bound_and_never_is_worst() -> None:
    easy, near = Recovery("easy", 1.0, 10.0, ""), Recovery("near", 0.9, 1.0, "")
    never = Recovery("never", None, 100.0, "")
    assert tightest([easy, near]) == near
    assert tightest([easy, never, near]) == never
    assert tightest([]) is None
    assert [recovery_words(one) for one in (near, never, None)] == [
        "0.90 of 1.00 s",
        "never of 100.00 s",
        "–",
    ]


# --- the numbers of the chart --------------------------------------------------------------------------------------


def at(seconds: float) -> float:
    return START_S + seconds


def test_a_timeline_counts_each_end_of_a_run_and_each_enqueue_once(result: Result) -> None:
    drawn = timeline(result.history, result.started_s, result.ended_s)
    ends = [event for event in result.history if isinstance(event, Run) and event.phase == "end"]
    assert sum(bin_.ended for bin_ in drawn.bins) == len(ends)
    assert sum(bin_.acknowledged + bin_.not_acknowledged for bin_ in drawn.bins) == JOBS
    assert drawn.bin_width_s == 0.25
    assert drawn.bins[-1].to_s == pytest.approx(result.seconds)


def test_what_was_not_seen_is_a_gap_and_not_a_zero() -> None:
    history: list[Event] = [
        Observation(at(0.1), ready={"low": 3}, leased=1, in_flight={"w": 1}),
        Observation(at(2.1), breaker={"w": "open"}),
        Observation(at(3.1), ready={"low": 0}, leased=0, in_flight={"w": 0}),
    ]
    bins = timeline(history, START_S, at(4.0)).bins
    assert (bins[0].ready, bins[0].leased, bins[0].in_flight) == ({"low": 3}, 1, 1)
    assert (bins[8].ready, bins[8].leased, bins[8].in_flight) == (None, None, None)
    assert (bins[12].ready, bins[12].in_flight) == ({"low": 0}, 0)


def test_a_fault_that_comes_again_has_a_window_each_time_and_may_never_heal() -> None:
    history: list[Event] = [
        Fault(at(1), "flap", "begin"),
        Fault(at(1.1), "flap", "active", proof="read back"),
        Fault(at(2), "flap", "heal"),
        Fault(at(2.1), "flap", "healed"),
        Fault(at(3), "flap", "begin"),
    ]
    first, second = timeline(history, START_S, at(5.0)).windows
    assert (first.begin_s, first.active_s, first.heal_s, first.healed_s) == pytest.approx((1, 1.1, 2, 2.1))
    assert first.proof == "read back"
    assert (second.begin_s, second.active_s, second.healed_s) == (3.0, None, None)
    assert second.until_s(5.0) == 5.0


def test_a_breaker_keeps_its_state_until_it_is_seen_in_another_or_is_no_more_seen() -> None:
    history: list[Event] = [
        Observation(at(1), breaker={"a": "closed", "b": "closed"}),
        Observation(at(1.25), breaker={"client": "closed"}),  # of itself: says nothing of the others
        Observation(at(1.5), breaker={"a": "open", "b": "closed"}),
        Observation(at(2), breaker={"a": "open"}),
    ]
    breakers = timeline(history, START_S, at(2.5)).breakers
    assert breakers == {
        "a": [Stretch(1, 1.5, "closed"), Stretch(1.5, 2.5, "open")],
        "b": [Stretch(1, 2.25, "closed")],
        "client": [Stretch(1.25, 2.0, "closed")],
    }
    assert worst_of(breakers, 2.5) == [Stretch(1, 1.5, "closed"), Stretch(1.5, 2.5, "open")]


def test_workers_come_before_clients() -> None:
    history: list[Event] = [Observation(at(1), breaker=dict.fromkeys(("a", "worker-2", "worker-1"), "open"))]
    assert list(timeline(history, START_S, at(2)).breakers) == ["worker-1", "worker-2", "a"]


def test_errors_are_counted_by_their_growth_also_over_a_restart() -> None:
    history: list[Event] = [
        Observation(at(second), errors={"worker-1": total, "client-1": 3})
        for second, total in enumerate((2, 5, 5, 1))
    ]
    drawn = timeline(history, START_S, at(4.0))
    assert sum(bin_.errors for bin_ in drawn.bins) == 2 + 3 + 0 + 1
    assert sum(bin_.client_errors for bin_ in drawn.bins) == 3


def test_a_long_run_has_wider_bins() -> None:
    drawn = timeline([], START_S, at(1800))
    assert (drawn.bin_width_s, len(drawn.bins)) == (5.0, 360)


def test_the_story_of_a_job_is_all_that_is_known_of_it(result: Result) -> None:
    history: list[Event] = [
        Enqueue(at(1), "a", "invoke", task="work", priority="low", delay_ms=50),
        Enqueue(at(1), "b", "invoke"),
        Enqueue(at(1.5), "a", "info", error="no reply"),
        Run(at(2), "a", "start", "w", 1, attempt=1, fence=9),
        Run(at(3), "a", "end", "w", 1, attempt=1, fence=9, outcome="returned"),
    ]
    assert [line.split("s  ", 1)[1] for line in story(history, "a", START_S)] == [
        "enqueue goes out: work, low, in 50 ms",
        "enqueue: nobody knows the outcome (no reply)",
        "run start: attempt 1, worker w, pid 1, fence 9",
        "run end returned: attempt 1, worker w, pid 1, fence 9",
    ]
    assert busiest_job(history) == "a"
    assert busiest_job([]) is None


# --- terminal ------------------------------------------------------------------------------------------------------


def test_the_terminal_says_verdict_numbers_offender_and_how_to_run_it_again(result: Result) -> None:
    text = printed(terminal.full(result))
    assert text.startswith("FAIL  Workers are cut off")
    assert re.search(r"\b1 lost\b", text)
    assert re.search(r"orphans run again +broken +6\.20 of 5\.50 s", text)
    assert re.search(r"N +nothing lost +broken +1", text)
    assert "enqueue acknowledged" in text
    assert text.rstrip().endswith(f"again: {result.command}")


def test_what_proves_a_fault_is_in_both_reports_and_so_is_what_does_not(result: Result) -> None:
    for text in (printed(terminal.full(result)), render_page(result)):
        assert "route workers: 38 of 38 probes refused" in text
        assert "nobody asked on route clients" in text


def test_a_pass_in_the_terminal_has_no_reason_and_no_offender(result: Result) -> None:
    text = printed(terminal.full(passing(result)))
    assert text.startswith("PASS")
    assert LOST not in text
    assert "broken  " not in text


def test_one_line_names_the_first_reason(result: Result) -> None:
    text = printed(terminal.line(result), width=400)
    assert text.count("\n") == 1
    assert text.startswith("FAIL    outage-longer-than-lease seed 7")
    assert "nowhere: job-0700" in text
    assert "nowhere" not in printed(terminal.line(passing(result)), width=400)


def test_a_suite_is_a_table_with_a_row_for_each_scenario_that_fits_in_120_columns(result: Result) -> None:
    text = printed(terminal.suite([result, passing(result)], "smoke"), width=120)
    assert "…" not in text
    rows = [line.split() for line in text.splitlines() if line.strip().startswith("outage")]
    assert [row[1:3] for row in rows] == [["NADZ", "FAIL"], ["NADZ", "PASS"]]
    assert "6.20 of 5.50 s" in text
    assert printed(terminal.suite_summary([result, passing(result)])).startswith("1 PASS, 1 FAIL in ")


# --- the page ------------------------------------------------------------------------------------------------------


def test_the_page_says_the_same_each_time_and_needs_nothing_from_outside(result: Result) -> None:
    page = render_page(result)
    assert page == render_page(from_json(to_json(result)))
    assert re.findall(r"https?:|//[a-z]|@import|url\(|<script|<link|<img|<iframe|\ssrc=|\shref=", page) == []


def test_everything_from_the_run_is_escaped(result: Result) -> None:
    evil = hostile(result)
    page = render_page(evil)
    assert "<script" not in page
    assert Tags.balanced(page)
    assert "[bold]" in printed(terminal.full(evil), width=400)


def hostile(result: Result) -> Result:
    """A run in which every word that may come from outside is out to break the page."""
    history: list[Event] = [
        Enqueue(at(1), EVIL, "invoke", task=EVIL, priority=EVIL),
        Enqueue(at(1.1), EVIL, "info", error=EVIL),
        Run(at(1.2), EVIL, "start", EVIL, 1, 1, 1),
        Fault(at(1), EVIL, "begin"),
        Fault(at(1.1), EVIL, "active", proof=EVIL),
        Action(at(2), EVIL, manual=True),
        Observation(at(2), ready={EVIL: 1}, breaker={EVIL: EVIL}, in_flight={EVIL: 1}, errors={EVIL: 1}),
        AtRest(at(3), drained=False, violations=(EVIL,) * 30, inversions=(EVIL,), leftovers=(EVIL,)),
    ]
    judgement = Judgement(
        Verdict.FAIL,
        (EVIL,),
        Counts(lost=1),
        (Invariant(EVIL, EVIL, False, 1, (Offender(EVIL, EVIL, (EVIL,)), Offender(EVIL, EVIL))),),
        (Recovery(EVIL, None, 0.0, EVIL),),
        (Proof(EVIL, (EVIL,), EVIL),),
    )
    return msgspec.structs.replace(
        result,
        scenario=EVIL,
        title=EVIL,
        promises=(EVIL,),
        command=EVIL,
        judgement=judgement,
        settings={EVIL: [EVIL]},
        versions={EVIL: EVIL},
        redis_settings={EVIL: EVIL},
        not_tested=(EVIL,),
        log_tail=(EVIL,),
        history=history,
        ended_s=at(3),
    )


def test_a_run_that_never_began_has_a_page_too(result: Result) -> None:
    judgement = Judgement(Verdict.ERROR, ("Toxiproxy did not start",), Counts(), (), ())
    nothing = msgspec.structs.replace(result, judgement=judgement, history=[], ended_s=result.started_s)
    page = render_page(nothing)
    assert "Toxiproxy did not start" in page
    assert Tags.balanced(page)
    assert printed(terminal.full(nothing)).startswith("ERROR")
