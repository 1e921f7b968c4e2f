"""Histories in which a promise is broken though every count looks well, each of which must not pass; and their likes
that are lawful."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from pydantic import ValidationError

from chaos.actors.tasks import app
from chaos.history import Observation, Settle
from chaos.judging.expectations import FAILURES
from chaos.playing.suite import as_expected
from chaos.result import Result
from chaos.verdict import Verdict
from tests.chaos.histories import LATE, OUTAGE, Tale, lawful, scenario

if TYPE_CHECKING:
    from chaos.scenario.model import Scenario
    from chaos.verdict import Judgement

FREEZE: dict[str, Any] = {"kind": "worker_freeze", "for": 5.0, "name": "freeze"}
SHORT: dict[str, Any] = OUTAGE | {"for": 1.2}
TERM: dict[str, Any] = {"kind": "worker_term", "for": 1.0, "name": "term", "names": ["worker-1"]}


def letters(judgement: Judgement) -> str:
    return "".join(invariant.letter for invariant in judgement.invariants if not invariant.held)


def failed(tale: Tale, scenario_: Scenario, *reasons: str) -> Judgement:
    """It FAILs, and for all of these reasons."""
    judgement = tale.judged(scenario_)
    assert judgement.verdict is Verdict.FAIL, judgement.reasons
    for reason in reasons:
        assert any(reason in told for told in judgement.reasons), judgement.reasons
    return judgement


def passed(tale: Tale, scenario_: Scenario) -> Judgement:
    judgement = tale.judged(scenario_)
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    return judgement


def expecting(*faults: dict[str, Any], workers: int = 2, load: Any = None, **counts: Any) -> Scenario:
    return scenario(*faults, load=load, processes={"workers": workers}, expect={"counts": counts})


def early(*, workers: int = 2) -> Tale:
    """Six jobs, before anything happens."""
    tale = Tale()
    for number in range(6):
        tale.job(f"early-{number}", 100 + number / 10, worker=f"worker-{number % workers + 1}")
    return tale


def late_jobs(
    tale: Tale, from_s: float, number: int = 6, *, pace_s: float = 0.1, worker: str = "worker-2"
) -> None:
    for each in range(number):
        tale.job(f"late-{each}", from_s + each * pace_s, worker=worker)


# --- nothing lost --------------------------------------------------------------------------------------------------


def test_a_job_that_is_nowhere_is_not_saved_by_a_counter_of_purged_jobs() -> None:
    tale = lawful()
    tale.enqueue("gone", 104.2)
    tale.rest(purged=1, enqueued=14, completed=13)
    failed(tale, expecting(OUTAGE), "purged: 1, expected == 0")


def test_a_job_settled_twice_does_not_hide_another_that_was_dropped() -> None:
    tale = lawful()
    tale.enqueue("x", 100.9)
    tale.run("x", 100.95, took_s=2.0)
    tale.settle("x", 103.6)
    tale.run("x", 103.4, worker="worker-2")
    tale.enqueue("y", 103.4)
    tale.run("y", 103.5)
    tale.settle("y", 103.6, "release", accepted=False)
    tale.rest(completed=15)
    assert {"N", "F"} <= set(letters(failed(tale, expecting(OUTAGE, duplicated=1))))


def test_an_outcome_that_its_worker_never_sent_is_lost() -> None:
    tale = lawful()
    tale.job("dropped", 103.7)
    tale.rest()
    tale.events = [e for e in tale.events if not (isinstance(e, Settle) and e.id == "dropped")]
    judgement = failed(tale, expecting(OUTAGE), "N: dropped: its handler returned, nobody settled that")
    assert judgement.counts.lost == 1


def test_what_a_worker_had_settled_when_it_was_killed_is_not_lost() -> None:
    """It never heard of that, and the job is gone."""
    tale = early()
    tale.enqueue("last", 100.9)
    tale.run("last", 100.95)
    tale.fault("kill", 101.0, 102.5, "worker-1")
    late_jobs(tale, 103)
    tale.rest()
    tale.events = [e for e in tale.events if not (isinstance(e, Settle) and e.id == "last")]
    passed(tale, expecting({"kind": "worker_kill", "for": 1.5, "name": "kill"}))


# --- fenced --------------------------------------------------------------------------------------------------------


def taken_over(*, accepted: bool) -> Tale:
    """A worker that was frozen settles a job which another is running, and whose settle gets the other answer."""
    tale = early()
    tale.enqueue("x", 100.9)
    tale.run("x", 101.0, took_s=6.2)
    tale.settle("x", 107.3, accepted=accepted)
    tale.run("x", 104.0, took_s=5.0, worker="worker-2")
    tale.settle("x", 109.1, accepted=not accepted)
    tale.fault("freeze", 101.1, 106.5, "worker-1")
    late_jobs(tale, 107)
    tale.rest()
    return tale


def test_a_stale_settle_that_is_accepted_breaks_the_fence_though_the_books_balance() -> None:
    judgement = failed(
        taken_over(accepted=True),
        expecting(FREEZE, duplicated=1),
        "F: x: done was accepted with fence 7, though the job ran with fence 8",
    )
    assert (letters(judgement), judgement.counts.stale_accepted) == ("F", 1)


def test_a_stale_settle_that_is_refused_is_counted_and_passes() -> None:
    judgement = passed(taken_over(accepted=False), expecting(FREEZE, duplicated=1))
    assert (judgement.counts.stale_refused, judgement.counts.stale_accepted) == (1, 0)


def test_what_is_given_back_may_run_again_at_once_and_what_has_ended_may_not() -> None:
    for verdict, broken in (("release", ""), ("retry", ""), ("dead", "F")):
        tale = early()
        tale.enqueue("x", 101)
        tale.run("x", 101.1, "raised" if verdict == "retry" else "cancelled")
        tale.settle("x", 101.2, verdict)  # type: ignore[arg-type]
        tale.run("x", 101.25, worker="worker-2", attempt=1 + (verdict == "retry"))
        tale.fault("term", 101.05, 102, "worker-1")
        late_jobs(tale, 103)
        tale.rest()
        assert letters(tale.judged(expecting(TERM))) == broken


def test_without_a_word_of_what_was_settled_the_run_proves_nothing() -> None:
    tale = lawful()
    tale.rest(settled=False)
    judgement = tale.judged(expecting(OUTAGE))
    assert judgement.verdict is Verdict.INVALID
    assert "no worker wrote down what it settled" in judgement.reasons[0]


# --- duplicates ----------------------------------------------------------------------------------------------------


def test_nobody_loses_a_lease_to_an_outage_that_hits_everybody() -> None:
    tale = Tale()
    for number in range(60):
        tale.enqueue(f"j{number}", 100 + number / 60)
        tale.run(f"j{number}", 100.02 + number / 60)
    tale.fault("outage", 100.5, 101.7)
    for number in range(60):
        tale.run(f"j{number}", 102.5 + number / 60, worker="worker-2")
    late_jobs(tale, 102)
    tale.rest()
    assert letters(failed(tale, expecting(SHORT, duplicated=">= 0"))) == "DZ"


def test_no_mass_reap_after_an_outage_shorter_than_a_lease() -> None:
    tale = early()
    for number in range(16):
        tale.enqueue(f"s{number}", 100.9)
        tale.run(f"s{number}", 101.0, took_s=4.0)
    tale.fault("outage", 101.2, 103.1)
    for number in range(16):
        tale.run(f"s{number}", 103.4, worker="worker-2", took_s=0.5)
    late_jobs(tale, 104)
    tale.rest(reclaimed=16)
    judgement = failed(
        tale, expecting(OUTAGE | {"for": 1.9}, duplicated=">= 0"), "reclaimed: 16, expected == 0"
    )
    assert {"D", "Z"} <= set(letters(judgement))


def test_an_outage_of_one_worker_may_cost_it_a_lease() -> None:
    routes = {"workers": "workers", "worker-1": "own"}
    tale = early()
    tale.job("x", 100.9, took_s=2.5)
    tale.fault("outage", 101, 104.0, met=None)
    tale.probe("outage", "own", 101.01, "answered", before=True)
    tale.probe("outage", "own", 101.1, "refused")
    tale.run("x", 103.5, worker="worker-2")
    late_jobs(tale, 104.2)
    tale.job("first-again", 104.2)
    tale.rest(reclaimed=1)
    one = scenario(
        OUTAGE | {"for": 3.0, "proxies": ["own"]},
        processes={"routes": routes},
        expect={"counts": {"duplicated": 1, "reclaimed": 1}},
    )
    passed(tale, one)


def test_duplicates_with_a_cause_are_none_unless_the_scenario_says_how_many() -> None:
    tale = early()
    tale.enqueue("x", 100.8)
    tale.run("x", 100.9, took_s=6.0)
    tale.run("x", 104.0, worker="worker-2")
    tale.fault("freeze", 101, 106, "worker-1")
    late_jobs(tale, 106.2)
    tale.rest()
    failed(tale, expecting(FREEZE), "duplicated: 1, expected == 0")
    passed(tale, expecting(FREEZE, duplicated="<= 1"))


def test_a_worker_that_drains_settles_what_it_has_finished() -> None:
    tale = early()
    for number in range(8):
        tale.enqueue(f"s{number}", 100.5)
        tale.run(f"s{number}", 100.6, took_s=1.0)
    for number in range(8):
        tale.run(f"s{number}", 103.5, worker="worker-2")
    tale.fault("term", 101.0, 103.0, "worker-1")
    late_jobs(tale, 104)
    tale.rest()
    assert letters(failed(tale, expecting(TERM, duplicated=">= 0"))) == "D"


@pytest.mark.parametrize("outcome", ["cancelled", ""])
def test_a_worker_that_drains_may_give_back_what_it_has_cancelled(outcome: Any) -> None:
    tale = early()
    tale.enqueue("s", 100.5)
    tale.run("s", 100.6, outcome, took_s=1.0)
    tale.run("s", 101.8, worker="worker-2")
    tale.fault("term", 101.0, 103.0, "worker-1")
    late_jobs(tale, 104)
    tale.rest()
    passed(tale, expecting(TERM))


@pytest.mark.parametrize("told_s", [101.0, 102.5])
def test_a_worker_that_cannot_reach_redis_may_end_without_settling(told_s: float) -> None:
    tale = early()
    tale.enqueue("s", 100.5)
    tale.run("s", 100.6, took_s=1.0)
    tale.fault("outage", 100.7, 105)
    tale.fault("term", told_s, 103.0, "worker-1")
    tale.run("s", 107.5, worker="worker-2")
    late_jobs(tale, 105.2)
    tale.rest()
    down = OUTAGE | {"go_on": True, "for": 4.3}
    judgement = passed(tale, expecting(down, TERM, duplicated=1))
    assert judgement.counts.duplicated == 1


# --- what is given up, and what comes back too late -----------------------------------------------------------------


@pytest.mark.parametrize(("phase", "count"), [("fail", "failed"), ("info", "unknown")])
def test_no_enqueue_may_fail_or_stay_unknown_unless_the_scenario_says_so(phase: Any, count: str) -> None:
    tale = early()
    tale.fault("outage", 101.0, 102.2)
    for number in range(70):
        tale.enqueue(f"f{number}", 101.05 + number / 60, phase)
    for number in range(20):
        tale.job(f"late-{number}", 102.3 + number / 20, worker=f"worker-{number % 2 + 1}")
    tale.rest()
    failed(tale, expecting(SHORT), f"{count}: 70, expected == 0")


def test_a_lease_that_ran_out_is_none_unless_the_scenario_says_so() -> None:
    """Claimed, never begun, and taken back: no run tells of it."""
    tale = lawful(late=True)
    tale.rest(reclaimed=16)
    failed(tale, expecting(LATE), "reclaimed: 16, expected == 0")
    passed(tale, expecting(LATE, reclaimed="<= 16"))


def killed(phase: str) -> Scenario:
    kill = {"kind": "worker_kill", "phase": phase, "for": 1.0, "name": "kill"}
    return expecting(kill, workers=3, duplicated="<= 1", reclaimed="<= 8")


def orphan(again_s: float, *, ran: bool, jobs: dict[str, float] | None) -> Tale:
    tale = early()
    tale.enqueue("orphan", 101.0)
    if ran:
        tale.run("orphan", 101.01)
    tale.run("orphan", again_s, worker="worker-2")
    tale.fault("kill", 101, 102.5, "worker-1", jobs=jobs)
    late_jobs(tale, 102.6, 40, pace_s=0.5)
    tale.rest()
    return tale


@pytest.mark.parametrize(("phase", "ran"), [("claimed", False), ("before_settle", True)])
def test_the_job_that_a_victim_had_in_hand_must_run_again_in_time(phase: str, ran: bool) -> None:
    named = {"orphan": 101.04}
    failed(orphan(121.5, ran=ran, jobs=named), killed(phase), "orphans of kill run again: 20.4")
    judgement = passed(orphan(104.0, ran=ran, jobs=named), killed(phase))
    assert [r.measured_s for r in judgement.recoveries if "orphans" in r.name] == [
        pytest.approx(2.96, abs=0.02)
    ]


def test_the_job_that_a_victim_had_in_hand_must_run_again_at_all() -> None:
    tale = orphan(101.02, ran=False, jobs={"orphan": 101.04})
    failed(tale, killed("claimed"), "orphans of kill run again: never")


def test_a_victim_that_names_no_job_proves_nothing() -> None:
    judgement = orphan(104.0, ran=False, jobs=None).judged(killed("claimed"))
    assert judgement.verdict is Verdict.INVALID
    assert judgement.reasons == ("fault kill does not say whose job its victim had in hand",)
    passed(orphan(104.0, ran=False, jobs=None), killed("before_claim"))


def test_no_orphan_can_run_while_no_worker_lives() -> None:
    tale = early()
    tale.enqueue("o", 100.9)
    tale.run("o", 101.0, "", pid=1)
    tale.fault("holder", 101.02, 110.0, "worker-1", jobs={"o": 101.05})
    tale.fault("reaper", 102.5, 106.6, "worker-2")
    tale.run("o", 106.9, worker="worker-2", pid=2)
    late_jobs(tale, 111)
    tale.rest()
    kills: list[dict[str, Any]] = [
        {"kind": "worker_kill", "phase": "running", "names": ["worker-1"], "for": 4.0, "name": "holder"},
        {"kind": "worker_kill", "phase": "sweeping", "names": ["worker-2"], "for": 0.2, "name": "reaper"},
    ]
    judgement = passed(tale, expecting(*kills))
    measured = {r.name: r.measured_s for r in judgement.recoveries if "orphans" in r.name}
    assert measured == {"orphans of holder run again": pytest.approx(0.3)}


# --- recovery is everybody's ---------------------------------------------------------------------------------------


def after_an_outage(number: int, *workers: str) -> Tale:
    tale = early()
    tale.fault("outage", 101.5, 103.5)
    for each in range(number):
        tale.job(f"late-{each}", 103.6 + each / 10, worker=workers[each % len(workers)])
    tale.rest()
    return tale


def test_a_worker_that_never_works_again_fails_though_others_do() -> None:
    failed(
        after_an_outage(200, "worker-1"),
        expecting(OUTAGE),
        "first success of workers, the last of them, after outage: never",
    )
    passed(after_an_outage(200, "worker-1", "worker-2"), expecting(OUTAGE))


def test_a_worker_may_be_idle_when_there_is_not_enough_to_do() -> None:
    judgement = passed(after_an_outage(30, "worker-1"), expecting(OUTAGE))
    assert not [r for r in judgement.recoveries if "the last of them" in r.name]


def test_a_worker_that_works_again_much_later_than_others_fails() -> None:
    tale = early()
    tale.fault("outage", 101.5, 103.5)
    for each in range(200):
        tale.job(f"late-{each}", 103.6 + each / 10, worker="worker-2" if each > 150 else "worker-1")
    tale.rest()
    failed(tale, expecting(OUTAGE), "the last of them, after outage: 15.25 s, allowed are 5.05 s")


def test_the_slowest_client_is_measured() -> None:
    tale = lawful()
    tale.enqueue("theirs", 102.0, took_s=4.0, client="producer-2")
    tale.run("theirs", 106.1)
    tale.rest()
    two = scenario(OUTAGE, processes={"producers": 2})
    failed(tale, two, "first success of clients after outage: 3.00 s")


# --- budgets -------------------------------------------------------------------------------------------------------


def test_the_table_of_failures_is_that_of_the_tasks() -> None:
    assert {name: app.tasks[name].defaults.max_retries for name in FAILURES} == {
        name: times - 1 for name, times in FAILURES.items()
    }


def dies(task: str, *runs: str, took_s: float = 0.02, attempts: bool = True) -> Tale:
    """One job of that task, which runs so often, ends so, and is dead."""
    tale = lawful(outage=False)
    tale.enqueue("d", 101, task=task)
    for number, outcome in enumerate(runs):
        attempt = number + 1 if attempts else 1
        tale.run("d", 101.1 + number, outcome, took_s=took_s, attempt=attempt, pid=200 + number)  # type: ignore[arg-type]
    tale.rest(places={"d": "dead"})
    return tale


@pytest.mark.parametrize(
    ("task", "runs", "outcome"),
    [("fail", 2, "raised"), ("hang", 2, "cancelled"), ("uncancellable", 1, "cancelled")],
)
def test_a_task_dies_when_its_retries_are_used_up_and_not_before_or_after(
    task: str, runs: int, outcome: str
) -> None:
    one = expecting(load={"kind": task}, dead=1)
    passed(dies(task, *[outcome] * runs, took_s=0.5), one)
    for number in (runs - 1, runs + 1, runs + 2):
        tale = dies(task, *[outcome] * number, took_s=0.5)
        if not number:  # of each task one handler must have begun
            tale.enqueue("another", 103, task=task)
            tale.run("another", 103.1, outcome, took_s=0.5)  # type: ignore[arg-type]
        assert "A" in letters(tale.judged(one))


def test_jobs_that_never_ran_are_not_dead_for_hanging() -> None:
    tale = lawful()
    for number in range(12):
        tale.enqueue(f"h{number}", 100.9, task="hang")
    tale.run("h0", 101.0, "cancelled", took_s=0.5)
    tale.rest(places={f"h{number}": "dead" for number in range(12)})
    failed(tale, expecting(OUTAGE, load={"kind": "hang"}, dead=12), "A: h1: dead after 0 failures of its own")


@pytest.mark.parametrize(("crashes", "broken"), [(1, "A"), (3, ""), (12, "A")])
def test_poison_is_dead_when_its_crash_budget_is_used_up(crashes: int, broken: str) -> None:
    poison = scenario(
        load={"kind": "poison"},
        settings={"worker": {"max_crashes": 2}},
        expect={"counts": {"dead": 1, "reclaimed": ">= 0", "poisoned": ">= 0"}},
    )
    assert letters(dies("poison", *[""] * crashes, attempts=False).judged(poison)) == broken


def test_a_fault_may_cost_a_failing_job_another_run() -> None:
    tale = early()
    tale.fault("kill", 101.3, 102.5, "worker-1")
    tale.enqueue("f", 101, task="fail")
    tale.run("f", 101.1, "raised", took_s=0.15)  # nobody settled that
    tale.run("f", 104, "raised", worker="worker-2")
    tale.run("f", 104.5, "raised", worker="worker-2", attempt=2)
    late_jobs(tale, 105)
    tale.rest(places={"f": "dead"})
    kill = {"kind": "worker_kill", "for": 1.0, "name": "kill"}
    passed(tale, expecting(kill, load={"kind": "fail"}, dead=1))


# --- refusals, exits, connections, depths ---------------------------------------------------------------------------


def test_a_worker_that_only_warns_has_not_refused() -> None:
    steps = [{"load": {"jobs": 10}}, {"start": {"refuses": "maxmemory-policy"}}, {"settle": {"within": 20}}]
    basis = {"name": "e", "title": "e", "promises": "N", "steps": steps}
    tale = lawful(outage=False)
    tale.act(
        "worker-3 should have refused to start: worker-3 (pid 7) did not say 'refused' within 20 s: warning: "
        "maxmemory-policy is allkeys-lru, keys may vanish"
    )
    tale.rest()
    failed(
        tale,
        type(scenario()).model_validate(basis),
        "no worker refused to start because of 'maxmemory-policy'",
    )


@pytest.mark.parametrize(("code", "broken"), [(0, ""), (1, "C"), (-9, "C")])
def test_a_worker_that_is_told_to_end_ends_well(code: int, broken: str) -> None:
    tale = early(workers=1)
    tale.fault("term", 101.0, 103.0, "worker-1", exits={"worker-1": code})
    late_jobs(tale, 103.5)
    tale.rest()
    assert letters(tale.judged(expecting(TERM, workers=3))) == broken


@pytest.mark.parametrize(("every_s", "broken"), [(0.001, "Z"), (0.04, "")])
def test_a_rush_of_connections_is_one_though_it_was_calm_before(every_s: float, broken: str) -> None:
    tale = lawful()
    tale.events.append(Observation(100.0, connects={"worker-1": 0}))
    for number in range(200):
        tale.events.append(Observation(106 + number * every_s, connects={"worker-1": number}))
    tale.rest()
    assert letters(tale.judged(expecting(OUTAGE))) == broken


def test_a_queue_that_grows_beyond_its_limit_is_seen() -> None:
    tale = lawful(outage=False)
    tale.events += [
        Observation(101, ready={"normal": 58, "low": 2}),
        Observation(102, ready={"normal": 60}, scheduled=3),
    ]
    tale.rest()
    failed(tale, expecting(deepest="<= 60"), "deepest: 63, expected <= 60")
    passed(tale, expecting(deepest="<= 63"))


def test_handlers_under_way_when_nobody_can_reach_redis_are_counted() -> None:
    quick, slow = lawful(), lawful()
    quick.rest()
    slow.job("slow", 100.5, took_s=3)
    slow.rest()
    failed(quick, expecting(OUTAGE, in_flight="> 0"), "in flight: 0, expected > 0")
    assert passed(slow, expecting(OUTAGE, in_flight="> 0")).counts.in_flight == 1


def test_settles_that_must_go_on_during_a_fault_are_counted_in_it() -> None:
    full = scenario(
        {"kind": "out_of_memory", "for": 2.0, "name": "full"},
        expect={"completed_during": {"full": "> 0"}},
    )
    tale = early()
    tale.fault("full", 101, 103, met=None)
    late_jobs(tale, 103.2)
    before = Tale(list(tale.events), tale.fence)
    tale.rest()
    failed(tale, full, "completed during full: 0, expected > 0")
    before.job("during", 101.5)
    before.rest()
    passed(before, full)


@pytest.mark.parametrize(
    ("verdict", "reasons", "expected"),
    [
        (Verdict.ERROR, ("Toxiproxy did not answer",), True),
        (Verdict.ERROR, ("TypeError: a bug of ours", "Toxiproxy did not answer"), False),
        (Verdict.INVALID, ("Toxiproxy did not answer",), False),
    ],
)
def test_a_verdict_that_is_expected_has_its_reason_too(
    verdict: Verdict, reasons: tuple[str, ...], expected: bool
) -> None:
    tale = lawful(outage=False)
    tale.rest()
    judgement = msgspec.structs.replace(tale.judged(), verdict=verdict, reasons=reasons)
    result = Result(
        scenario="a", title="a", promises=(), seed=0, command="", judgement=judgement, started_s=0, ended_s=1
    )
    assert as_expected(scenario(expect={"verdict": "ERROR", "reason": "did not answer"}), result) is expected
    assert not as_expected(scenario(), result)


@pytest.mark.parametrize("expect", [{"verdict": "ERROR"}, {"reason": "none"}])
def test_a_reason_belongs_to_a_verdict_that_is_no_pass(expect: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="needs a reason, and PASS has none"):
        scenario(expect=expect)
