"""Each word and each verdict of the checker, from histories written by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from chaos.history import AtRest, Enqueue, Fault, Observation, Run
from chaos.verdict import Proof, Verdict
from tests.chaos.histories import LATE, OUTAGE, Tale, lawful, scenario

if TYPE_CHECKING:
    from chaos.verdict import Judgement, Recovery

LATE_S = 150.0
"""Long after every fault."""


def held(judgement: Judgement) -> str:
    """The letters of the promises that were broken."""
    return "".join(invariant.letter for invariant in judgement.invariants if not invariant.held)


def recovery(judgement: Judgement, name: str) -> Recovery:
    (found,) = [recovery for recovery in judgement.recoveries if name in recovery.name]
    return found


def outage(counts: dict[str, Any] | None = None, **more: Any) -> Any:
    return scenario(OUTAGE | more, expect={"counts": counts or {}})


def late(**counts: Any) -> Any:
    return scenario(LATE, expect={"counts": counts})


# --- verdicts ------------------------------------------------------------------------------------------------------


def test_a_lawful_run_passes() -> None:
    tale = lawful()
    tale.rest()
    judgement = tale.judged(outage())
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert judgement.reasons == ()
    assert (judgement.counts.attempted, judgement.counts.completed) == (13, 13)
    assert judgement.proofs == (
        Proof(
            "outage",
            (
                "read back",
                "route workers: 1 of 1 probes refused (before: answered in 1.0 ms)",
                "route clients: 1 of 1 probes refused (before: answered in 1.0 ms)",
                "worker-1: 1 error",
            ),
        ),
    )
    assert [invariant.letter for invariant in judgement.invariants] == list("NUSFADPZC")


def test_a_run_without_an_end_is_invalid() -> None:
    judgement = lawful().judged(outage())
    assert judgement.verdict is Verdict.INVALID
    assert "never asked" in judgement.reasons[0]
    assert judgement.counts.attempted == 13


def test_a_run_without_load_is_invalid() -> None:
    tale = Tale()
    tale.fault("outage", 101, 103)
    tale.rest()
    judgement = tale.judged(outage())
    assert judgement.verdict is Verdict.INVALID
    assert any("no load" in reason for reason in judgement.reasons)


def test_a_drain_that_did_not_finish_is_invalid() -> None:
    tale = lawful()
    tale.enqueue("slow", 105)
    tale.rest(106, drained=False, places={"slow": "ready"})
    judgement = tale.judged(outage())
    assert (judgement.verdict, judgement.counts.still_queued) == (Verdict.INVALID, 1)
    assert "the drain did not finish: 1 jobs are still queued" in judgement.reasons


@pytest.mark.parametrize(
    ("phase", "reason"),
    [
        ("active", "fault outage is not proven to have bitten"),
        ("healed", "fault outage is not proven to be gone"),
    ],
)
def test_a_fault_that_is_not_proven_is_invalid(phase: str, reason: str) -> None:
    tale = lawful()
    tale.events = [event for event in tale.events if not (isinstance(event, Fault) and event.phase == phase)]
    tale.rest()
    judgement = tale.judged(outage())
    assert (judgement.verdict, judgement.reasons[0]) == (Verdict.INVALID, reason)


def test_an_empty_proof_is_none() -> None:
    tale = lawful(outage=False)
    tale.fault("outage", 101, 103, proof="")
    tale.rest()
    assert "fault outage is not proven to have bitten" in tale.judged(outage()).reasons


def test_a_fault_that_never_began_is_invalid() -> None:
    tale = lawful(outage=False)
    tale.rest()
    judgement = tale.judged(outage())
    assert (judgement.verdict, judgement.reasons) == (Verdict.INVALID, ("fault outage began 0 times, not 1",))


def test_a_fault_must_begin_as_often_as_it_should() -> None:
    tale = lawful()
    tale.rest()
    assert tale.judged(outage(times=2)).reasons == ("fault outage began 1 times, not 2",)


def test_a_fault_that_is_not_of_the_scenario_is_invalid() -> None:
    tale = lawful()
    tale.rest()
    assert tale.judged(scenario()).reasons == ("fault outage is not of this scenario",)


def test_a_fault_with_nothing_going_on_is_invalid() -> None:
    tale = lawful()
    tale.fault("later", 190, 195)
    tale.rest(200)
    judgement = tale.judged(scenario(OUTAGE, {"kind": "proxy_down", "for": 5, "name": "later"}))
    assert judgement.verdict is Verdict.INVALID
    assert "nothing was going on during fault later" in judgement.reasons


def test_a_fault_by_chance_must_say_whom_it_hit() -> None:
    tale = lawful(outage=False)
    tale.fault("kill", 100.2, 101)
    tale.rest()
    judgement = tale.judged(scenario({"kind": "worker_kill", "name": "kill", "for": 1}))
    assert (judgement.verdict, judgement.reasons) == (
        Verdict.INVALID,
        ("fault kill does not say whom it hit",),
    )


def test_a_broken_promise_fails_even_a_run_that_proves_nothing() -> None:
    tale = lawful(outage=False)
    tale.enqueue("gone", 105)
    tale.rest()
    judgement = tale.judged(outage())
    assert judgement.verdict is Verdict.FAIL
    assert judgement.reasons[0].startswith("N: gone: ")
    assert judgement.reasons[-1] == "fault outage began 0 times, not 1"


def test_the_weightiest_reason_comes_first() -> None:
    tale = lawful()
    tale.enqueue("gone", 105)
    tale.run("ghost", 105)
    tale.rest(inversions=("low before high",), enqueued=15)
    judgement = tale.judged(outage())
    assert [reason[0] for reason in judgement.reasons[:2]] == ["N", "U"]
    assert judgement.verdict is Verdict.FAIL


def test_contradicting_journals_are_invalid() -> None:
    tale = lawful()
    tale.events.append(Run(105, "early-0", "end", "worker-1", 101, 1, 999, "returned"))
    tale.rest()
    judgement = tale.judged(outage())
    assert judgement.verdict is Verdict.INVALID
    assert "the journals contradict themselves" in judgement.reasons[0]


# --- lost, unexpected, recovered -----------------------------------------------------------------------------------


def test_lost_is_acknowledged_and_nowhere() -> None:
    tale = lawful()
    tale.enqueue("gone", 105)
    tale.rest()
    judgement = tale.judged(outage())
    assert (judgement.verdict, judgement.counts.lost, held(judgement)) == (Verdict.FAIL, 1, "NS")
    (offender,) = judgement.invariants[0].offenders
    assert offender.id == "gone"
    assert len(offender.history) == 3
    assert "acknowledged" in offender.history[1]


@pytest.mark.parametrize("place", ["ready", "scheduled", "leased", "dead"])
def test_what_is_still_there_is_not_lost(place: str) -> None:
    tale = lawful()
    tale.enqueue("there", 105)
    tale.rest(106, drained=False, places={"there": place})
    assert tale.judged(outage()).counts.lost == 0


@pytest.mark.parametrize("phase", ["info", "fail", "refused", None])
def test_what_was_not_acknowledged_cannot_be_lost(phase: Any) -> None:
    tale = lawful()
    tale.enqueue("perhaps", 102, phase)
    tale.rest(enqueued=13)
    assert tale.judged(outage()).counts.lost == 0


def test_a_run_that_did_not_return_does_not_save_a_job() -> None:
    tale = lawful()
    tale.enqueue("cut-off", 100.9)
    tale.run("cut-off", 100.95, "cancelled", took_s=1)
    tale.rest()
    assert tale.judged(outage()).counts.lost == 1


def test_unexpected_ran_and_nobody_enqueued_it() -> None:
    tale = lawful()
    tale.run("ghost", 105)
    tale.rest()
    judgement = tale.judged(outage())
    assert (judgement.verdict, judgement.counts.unexpected) == (Verdict.FAIL, 1)
    assert judgement.reasons[0] == "U: ghost: ran, and nobody enqueued it"


def test_unexpected_is_in_the_queue_and_nobody_enqueued_it() -> None:
    tale = lawful()
    tale.rest(places={"ghost": "dead"})
    assert tale.judged(outage()).counts.unexpected == 1


@pytest.mark.parametrize("phase", ["fail", "refused"])
def test_certainly_not_queued_must_be_true(phase: Any) -> None:
    tale = lawful()
    tale.enqueue("refused", 102, phase)
    tale.run("refused", 104)
    tale.rest()
    judgement = tale.judged(outage())
    assert judgement.verdict is Verdict.FAIL
    assert "certainly not queued" in judgement.reasons[0]


def test_an_id_that_failed_first_may_be_queued_later() -> None:
    tale = lawful()
    tale.enqueue("again", 102, "fail")
    tale.job("again", 104)
    tale.rest()
    judgement = tale.judged(outage())
    assert (judgement.verdict, judgement.counts.failed) == (Verdict.PASS, 0)


@pytest.mark.parametrize("phase", ["info", None])
def test_recovered_ran_though_its_outcome_was_unknown(phase: Any) -> None:
    tale = lawful()
    tale.enqueue("perhaps", 102, phase, took_s=0.4)
    tale.run("perhaps", 104)
    tale.rest()
    judgement = tale.judged(outage({"unknown": 1}))
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert (judgement.counts.recovered, judgement.counts.unknown) == (1, 1)


def test_unknown_and_never_ran_is_neither_lost_nor_failed() -> None:
    tale = lawful()
    tale.enqueue("perhaps", 102, "info", took_s=0.4)
    tale.rest()
    judgement = tale.judged(outage({"unknown": 1}))
    assert judgement.verdict is Verdict.PASS
    assert (judgement.counts.recovered, judgement.counts.unknown, judgement.counts.failed) == (0, 1, 0)


# --- duplicated ----------------------------------------------------------------------------------------------------


def twice(first_s: float, again_s: float, *, took_s: float = 0.5, worker: str = "worker-1") -> Tale:
    tale = lawful(late=True)
    tale.enqueue("twice", first_s - 0.1)
    tale.run("twice", first_s, took_s=took_s, worker=worker)
    tale.run("twice", again_s, worker="worker-2")
    tale.rest(200)
    return tale


def test_duplicated_with_cause_is_counted_and_passes() -> None:
    judgement = twice(100.8, 103.9).judged(late(duplicated=1))
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert (judgement.counts.duplicated, judgement.counts.duplicated_without_cause) == (1, 0)


@pytest.mark.parametrize(
    ("first_s", "again_s", "took_s"),
    [
        (99.0, 99.9, 0.2),  # settled, and run again, before the fault
        (100.1, 103.9, 0.2),  # T after its end its settle was answered; the fault came later
        (LATE_S, LATE_S + 1, 0.5),  # a fresh lease, long after the fault
    ],
)
def test_duplicated_without_cause_fails(first_s: float, again_s: float, took_s: float) -> None:
    judgement = twice(first_s, again_s, took_s=took_s).judged(late())
    assert judgement.verdict is Verdict.FAIL
    assert (judgement.counts.duplicated, judgement.counts.duplicated_without_cause) == (0, 1)
    assert held(judgement) == "D"


@pytest.mark.parametrize(("after_heal_s", "without"), [(1.0, 0), (1.2, 1)])
def test_a_fault_explains_nothing_that_began_later_than_c_after_its_heal(
    after_heal_s: float, without: int
) -> None:
    judgement = twice(103 + after_heal_s, 103 + after_heal_s + 2).judged(late())
    assert judgement.counts.duplicated_without_cause == without


@pytest.mark.parametrize(("before_s", "without"), [(0.4, 0), (0.6, 1)])
def test_a_fault_explains_nothing_that_ended_longer_than_t_before_it(before_s: float, without: int) -> None:
    judgement = twice(100.0, 103.9, took_s=1.0 - before_s).judged(late())
    assert judgement.counts.duplicated_without_cause == without


def test_a_fault_on_clients_explains_no_duplicate() -> None:
    judgement = twice(100.8, 103.9).judged(scenario(LATE | {"proxies": ["clients"]}))
    assert judgement.counts.duplicated_without_cause == 1


def test_latency_below_the_timeout_explains_no_duplicate() -> None:
    mild = scenario(LATE | {"latency": 100})
    assert twice(100.8, 103.9).judged(mild).counts.duplicated_without_cause == 1
    assert twice(100.8, 103.9).judged(late()).counts.duplicated_without_cause == 0


@pytest.mark.parametrize(("victim", "without"), [("worker-1", 0), ("worker-2", 1)])
def test_a_kill_explains_only_what_its_victim_ran(victim: str, without: int) -> None:
    tale = lawful(outage=False)
    tale.fault("kill", 105, 106, victim)
    tale.enqueue("twice", 104.7)
    tale.run("twice", 104.8, took_s=0.1)
    tale.run("twice", 108, worker="worker-2")
    tale.rest(200)
    kill = {"kind": "worker_kill", "name": "kill", "for": 1}
    judgement = tale.judged(scenario(kill, expect={"counts": {"duplicated": "<= 1"}}))
    assert judgement.counts.duplicated_without_cause == without
    assert judgement.verdict is (Verdict.FAIL if without else Verdict.PASS), judgement.reasons


def test_a_frozen_worker_may_begin_after_the_one_that_took_over() -> None:
    tale = lawful(outage=False)
    tale.fault("freeze", 105, 110, "worker-1")
    tale.enqueue("twice", 104.9)
    tale.run("twice", 112.0, fence=50)
    tale.run("twice", 108.5, worker="worker-2", fence=51)
    tale.rest(200)
    judgement = tale.judged(scenario({"kind": "worker_freeze", "name": "freeze", "for": 5}))
    assert (judgement.counts.duplicated, judgement.counts.duplicated_without_cause) == (1, 0)


def test_running_again_needs_a_cause_even_if_the_first_run_never_ended() -> None:
    tale = lawful()
    tale.enqueue("again", LATE_S)
    tale.run("again", LATE_S + 0.1, "cancelled")
    tale.run("again", LATE_S + 1)
    tale.rest(200)
    judgement = tale.judged(outage())
    assert (judgement.verdict, held(judgement)) == (Verdict.FAIL, "D")
    assert judgement.counts.duplicated_without_cause == 0


def test_what_shared_a_process_with_a_killer_may_run_again() -> None:
    tale = lawful(outage=False)
    tale.enqueue("killer", 105, task="crash")
    tale.enqueue("neighbour", 105)
    tale.enqueue("elsewhere", 105)
    tale.run("neighbour", 105.1, "")
    tale.run("elsewhere", 105.1, "", worker="worker-2")
    tale.run("killer", 105.2, "")
    for id in ("neighbour", "elsewhere", "killer"):
        tale.run(id, 109, worker="worker-2")
    tale.rest()
    judgement = tale.judged(scenario(load={"kind": "crash"}))
    assert [offender.id for i in judgement.invariants for offender in i.offenders] == ["elsewhere"]


def test_a_killer_explains_only_what_was_at_stake_in_its_process() -> None:
    tale = lawful(outage=False)
    tale.enqueue("killer", 105, task="crash")
    tale.enqueue("settled", 102)
    tale.enqueue("reborn", 105)
    tale.run("settled", 102.1)
    tale.run("killer", 105.2, "")
    tale.run("reborn", 105.6, "", pid=999)
    for id in ("settled", "reborn", "killer"):
        tale.run(id, 109, worker="worker-2")
    tale.rest()
    judgement = tale.judged(scenario(load={"kind": "crash"}))
    assert {offender.id for i in judgement.invariants for offender in i.offenders} == {"settled", "reborn"}


def test_a_thread_that_works_on_after_its_timeout_duplicates_nothing() -> None:
    tale = lawful(outage=False)
    tale.enqueue("thread", 104.8, task="uncancellable")
    tale.run("thread", 104.9, took_s=7)
    tale.settle("thread", 110.1, "dead", accepted=False)
    tale.run("thread", 108, took_s=3, worker="worker-2")
    tale.settle("thread", 108.6, "dead")
    tale.fault("freeze", 105, 110, "worker-1")
    tale.rest(places={"thread": "dead"})
    freeze = {"kind": "worker_freeze", "name": "freeze", "for": 5}
    judgement = tale.judged(scenario(freeze, load={"kind": "uncancellable"}, expect={"counts": {"dead": 1}}))
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert judgement.counts.duplicated == 0


# --- fenced, and the books -----------------------------------------------------------------------------------------


def test_two_runs_under_one_lease() -> None:
    tale = lawful()
    tale.job("copied", 105, fence=77)
    tale.run("copied", 105.2, worker="worker-2", fence=77)
    tale.rest()
    judgement = tale.judged(outage())
    assert held(judgement) == "F"
    assert "two runs under one lease (fence 77)" in " ".join(judgement.reasons)


@pytest.mark.parametrize(
    "told",
    [
        {"completed": 14},
        {"completed": 12},
        {"enqueued": 14},
        {"enqueued": 12},
        {"violations": ("id in two states",)},
    ],
)
def test_books_that_do_not_balance(told: dict[str, Any]) -> None:
    tale = lawful()
    tale.rest(**told)
    judgement = tale.judged(outage())
    assert (judgement.verdict, held(judgement)) == (Verdict.FAIL, "S")


def test_books_that_balance_on_a_job_nobody_made() -> None:
    tale = lawful()
    tale.rest(enqueued=14, completed=14)
    judgement = tale.judged(outage())
    assert held(judgement) == "S"
    assert "clients know of 13 to 13" in judgement.reasons[0]


def test_stuck_is_still_there_though_the_queue_calls_itself_empty() -> None:
    tale = lawful()
    tale.enqueue("stuck", 105)
    tale.rest(places={"stuck": "leased"})
    judgement = tale.judged(outage())
    assert (judgement.verdict, judgement.counts.stuck) == (Verdict.FAIL, 1)


def test_stuck_is_what_nothing_moves_any_more() -> None:
    tale = lawful()
    tale.enqueue("stuck", 104.2)
    tale.rest(120, drained=False, places={"stuck": "ready"})
    judgement = tale.judged(outage())
    assert (judgement.verdict, judgement.counts.stuck) == (Verdict.FAIL, 1)
    assert judgement.reasons[0] == "S: stuck: ready, and nothing moves it"


def test_a_lease_that_nobody_reclaims_is_stuck_while_others_go_on() -> None:
    tale = lawful()
    tale.enqueue("orphan", 104.2)
    tale.run("orphan", 104.3, "")
    tale.enqueue("waiting-2", 104.2)
    tale.job("lively", 119)
    tale.rest(120, drained=False, places={"orphan": "leased", "waiting-2": "ready"})
    judgement = tale.judged(outage())
    assert [offender.id for i in judgement.invariants for offender in i.offenders] == ["orphan"]


def test_what_had_no_time_to_move_is_not_stuck() -> None:
    tale = lawful(outage=False)
    tale.enqueue("waiting", 104.8)
    tale.fault("outage", 105, 125)
    tale.rest(127, drained=False, places={"waiting": "ready"})
    judgement = tale.judged(outage())
    assert (judgement.verdict, judgement.counts.stuck) == (Verdict.INVALID, 0)


def test_what_an_operator_cancelled_is_not_lost() -> None:
    tale = lawful()
    tale.enqueue("cancelled", 105)
    tale.rest(cancelled=1)
    judgement = tale.judged(scenario(OUTAGE, expect={"counts": {"cancelled": 1}}))
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert judgement.counts.lost == 0


# --- the other promises --------------------------------------------------------------------------------------------


def test_priority_inverted() -> None:
    tale = lawful()
    tale.rest(inversions=("claim 7 took a low job while a high one was ready",))
    judgement = tale.judged(outage())
    assert (judgement.verdict, judgement.counts.inverted, held(judgement)) == (Verdict.FAIL, 1, "P")


def test_a_fault_must_not_burn_an_attempt() -> None:
    tale = lawful(late=True)
    tale.enqueue("burned", 100.7)
    tale.run("burned", 100.8, "cancelled", took_s=1)
    tale.run("burned", 104, attempt=2)
    tale.rest()
    judgement = tale.judged(late())
    assert (judgement.verdict, held(judgement)) == (Verdict.FAIL, "A")


def test_a_handler_that_raises_burns_its_own() -> None:
    tale = lawful()
    tale.enqueue("honest", 104)
    tale.run("honest", 104.1, "raised")
    tale.run("honest", 104.5, attempt=2)
    tale.rest()
    assert tale.judged(outage()).verdict is Verdict.PASS


def test_a_failure_counts_only_once_it_has_happened() -> None:
    tale = lawful()
    tale.enqueue("early", 104)
    tale.run("early", 104.1, "raised", took_s=2)
    tale.run("early", 104.5, attempt=2)
    tale.rest()
    assert held(tale.judged(outage())) == "A"


def test_dead_without_a_failure_of_its_own() -> None:
    tale = lawful()
    tale.enqueue("innocent", 104)
    tale.run("innocent", 104.1, "cancelled")
    tale.rest(places={"innocent": "dead"})
    judgement = tale.judged(outage())
    assert "A: innocent: dead, and its handler has never failed" in judgement.reasons
    assert "dead: 1, expected == 0" in judgement.reasons


def test_bad_records_may_be_dead_but_no_more_than_there_were() -> None:
    bad = scenario({"kind": "bad_record", "count": 1}, expect={"counts": {"dead": 1}})
    tale = lawful(outage=False)
    tale.events += [Fault(104, "bad_record", "begin"), Fault(104.01, "bad_record", "active", "read back")]
    tale.enqueue("damaged", 103.9)
    tale.rest(places={"damaged": "dead"})
    assert tale.judged(bad).verdict is Verdict.PASS
    tale.events.pop()
    tale.enqueue("innocent", 103.9)
    tale.rest(places={"damaged": "dead", "innocent": "dead"})
    assert "A" in held(tale.judged(bad))


def test_a_living_worker_keeps_its_jobs_through_a_long_outage() -> None:
    long = scenario(OUTAGE | {"for": 4})
    tale = lawful(outage=False)
    tale.fault("outage", 101, 105)
    tale.enqueue("reaped", 100.8)
    tale.run("reaped", 100.9, "cancelled", took_s=5)
    tale.run("reaped", 105.5, worker="worker-2")
    tale.job("after", 105.2)
    tale.rest()
    judgement = tale.judged(long)
    assert (judgement.verdict, held(judgement)) == (Verdict.FAIL, "DZ")


def test_a_rush_of_connections() -> None:
    tale = lawful()
    tale.events += [
        Observation(101.1, connects={"worker-1": 0}),
        Observation(102.9, connects={"worker-1": 5000}),
    ]
    tale.rest()
    assert held(tale.judged(outage())) == "Z"


def test_a_rush_of_connections_of_a_process_that_was_started_anew() -> None:
    tale = lawful()
    for at_s, count in ((101.1, 5000), (101.5, 0), (102.9, 4000)):
        tale.events.append(Observation(at_s, connects={"worker-1": count}))
    tale.rest()
    assert held(tale.judged(outage())) == "Z"


def test_leftovers() -> None:
    tale = lawful()
    tale.rest(leftovers=("thread MainThread-3 of worker-1",))
    assert held(tale.judged(outage())) == "C"


def test_a_person_had_to_help() -> None:
    tale = lawful()
    tale.act("restarted Redis by hand", manual=True)
    tale.act("started worker-1")
    tale.rest()
    judgement = tale.judged(outage())
    assert (judgement.verdict, judgement.counts.manual_interventions) == (Verdict.FAIL, 1)
    assert judgement.reasons == ("manual interventions: 1, expected == 0",)


# --- expectations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("refused", "verdict"), [(0, Verdict.FAIL), (2, Verdict.PASS)])
def test_expected_counts(refused: int, verdict: Verdict) -> None:
    tale = lawful(outage=False)
    for number in range(refused):
        tale.enqueue(f"refused-{number}", 104, "refused")
    tale.rest()
    assert tale.judged(scenario(expect={"counts": {"refused": "> 0"}})).verdict is verdict


def test_a_task_that_never_began_proves_nothing() -> None:
    tale = lawful(outage=False)
    tale.rest()
    judgement = tale.judged(scenario(load={"kind": "hang"}))
    assert (judgement.verdict, judgement.reasons) == (Verdict.INVALID, ("no handler of hang ever began",))


def test_a_worker_that_should_refuse_must_say_why() -> None:
    wanted = scenario()
    steps = [{"load": {"jobs": 1}}, {"start": {"refuses": "maxmemory-policy"}}, {"settle": {}}]
    wanted = type(wanted).model_validate({"name": "a", "title": "a", "promises": "N", "steps": steps})
    tale = lawful(outage=False)
    tale.rest()
    assert tale.judged(wanted).reasons == ("no worker refused to start because of 'maxmemory-policy'",)
    tale.act("worker-3 refused to start, exit code 5: maxmemory-policy is allkeys-lru")
    assert tale.judged(wanted).verdict is Verdict.PASS


# --- recovery ------------------------------------------------------------------------------------------------------


def test_recovery_is_measured_from_the_heal() -> None:
    tale = lawful()
    tale.rest()
    judgement = tale.judged(outage())
    assert recovery(judgement, "first success of clients").measured_s == pytest.approx(0.5)
    assert recovery(judgement, "first success of workers").measured_s == pytest.approx(0.1)
    assert recovery(judgement, "noticed").measured_s == pytest.approx(0.25)
    assert recovery(judgement, "backlog drained").measured_s == pytest.approx(0.06)
    assert all(measured.kept for measured in judgement.recoveries)


def test_a_late_first_success_fails() -> None:
    tale = lawful(outage=False)
    tale.fault("outage", 101, 103)
    tale.events = [event for event in tale.events if event.at_s < 103.5]
    tale.enqueue("waiting", 102, took_s=3.5)
    tale.run("waiting", 105.6)
    tale.rest()
    judgement = tale.judged(outage())
    assert judgement.verdict is Verdict.FAIL
    assert (
        "first success of clients after outage: 2.50 s, allowed are 1.10 s (C = T + B + 1.5 O)"
        in judgement.reasons
    )


def test_nothing_left_to_do_after_the_heal_proves_nothing() -> None:
    tale = lawful(outage=False)
    tale.events = [event for event in tale.events if event.at_s < 102]
    tale.job("before", 100.9, took_s=0.2)
    tale.fault("outage", 101, 103)
    tale.rest()
    judgement = tale.judged(outage())
    assert judgement.verdict is Verdict.INVALID
    assert judgement.reasons == ("nothing was left to do after outage: its recovery was not measured",)


@pytest.mark.parametrize(("cut_off", "verdict"), [("clients", Verdict.PASS), ("workers", Verdict.FAIL)])
def test_an_outage_of_clients_alone_asks_nothing_of_workers(cut_off: str, verdict: Verdict) -> None:
    tale = lawful(outage=False)
    tale.fault("outage", 101, 103)
    tale.trouble("producer-1", 101.3)
    tale.events = [event for event in tale.events if event.at_s < 104]
    tale.enqueue("after", 103.2)
    tale.run("after", 102.9)
    tale.events.append(Observation(105.0, ready={"normal": 1}, leased=0))
    tale.rest()
    judgement = tale.judged(scenario(OUTAGE | {"proxies": [cut_off]}))
    assert judgement.verdict is verdict, judgement.reasons


def test_an_orphan_that_runs_too_late() -> None:
    tale = lawful(outage=False)
    tale.fault("kill", 105, 106, "worker-1")
    tale.enqueue("orphan", 104.7)
    tale.run("orphan", 104.8, "")
    tale.run("orphan", 115, worker="worker-2")
    tale.rest()
    judgement = tale.judged(scenario({"kind": "worker_kill", "name": "kill", "for": 1}))
    assert judgement.verdict is Verdict.FAIL
    assert judgement.reasons == ("orphans of kill run again: 9.95 s, allowed are 5.50 s (J = 2 L + S + C)",)


def test_while_nobody_can_reach_redis_no_orphan_can_run() -> None:
    tale = lawful(outage=False)
    tale.fault("term", 104.8, 106, "worker-1")
    tale.fault("outage", 104.7, 112)
    tale.enqueue("orphan", 104.5)
    tale.run("orphan", 104.6, "")
    tale.run("orphan", 115, worker="worker-2")
    tale.job("after", 112.2)
    tale.rest()
    both = scenario(OUTAGE | {"go_on": True, "for": 7}, {"kind": "worker_term", "name": "term", "for": 1})
    judgement = tale.judged(both)
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert recovery(judgement, "orphans").measured_s == pytest.approx(3.0)
    assert recovery(judgement, "process gone").measured_s == pytest.approx(0.05)


def test_flapping_is_measured_where_there_is_time_for_it() -> None:
    tale = Tale()
    tale.job("before", 100.5)
    for number in range(3):
        tale.fault("outage", 101 + 2 * number, 102 + 2 * number)
    tale.enqueue("waiting", 101.5, took_s=5)
    tale.run("waiting", 106.6)
    tale.rest()
    judgement = tale.judged(outage(times=3))
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert recovery(judgement, "first success of clients").measured_s == pytest.approx(0.5)


def test_busy_slots_do_not_count_against_recovery() -> None:
    one_slot = scenario(OUTAGE, settings={"worker": {"concurrency": 1}}, processes={"workers": 1})
    tale = Tale()
    tale.enqueue("long", 100.5)
    tale.run("long", 100.6, took_s=4.4)
    tale.fault("outage", 101, 103)
    tale.enqueue("next", 103.1)
    tale.run("next", 105.2)
    tale.rest()
    judgement = tale.judged(one_slot)
    assert recovery(judgement, "first success of workers").measured_s == pytest.approx(0.2)


def test_faults_that_overlap_are_one_episode() -> None:
    both = scenario(OUTAGE | {"go_on": True}, {"kind": "redis_kill", "name": "kill", "for": 3})
    tale = Tale()
    tale.job("before", 100.5)
    tale.fault("outage", 101, 103)
    tale.fault("kill", 102, 105)
    tale.trouble("worker-2", 104.6)
    tale.enqueue("waiting", 102, took_s=3.4)
    tale.run("waiting", 105.5)
    tale.rest()
    judgement = tale.judged(both)
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert recovery(judgement, "first success of clients after outage, kill").measured_s == pytest.approx(0.4)


def cut(*, until_s: float = 103.0, late: bool = False) -> Tale:
    """A job before an outage, one whose run it cuts off, and nothing else."""
    tale = Tale()
    tale.job("before", 100.5)
    tale.job("cut", 100.85, outcome="cancelled", took_s=1.5)
    if late:
        tale.late(101, until_s)
    else:
        tale.fault("outage", 101, until_s)
    return tale


def test_only_first_runs_measure_recovery() -> None:
    tale = cut(late=True)
    tale.run("cut", 107, worker="worker-2")
    tale.rest()
    judgement = tale.judged(late())
    assert (judgement.verdict, len(judgement.reasons)) == (Verdict.INVALID, 1)
    assert "its recovery was not measured" in judgement.reasons[0]


def test_who_gives_up_as_the_fault_heals_proves_nothing() -> None:
    tale = cut(late=True)
    tale.enqueue("perhaps", 102.5, "info", took_s=0.7)
    tale.run("perhaps", 103.3)
    tale.run("cut", 107, worker="worker-2")
    tale.rest()
    judgement = tale.judged(late(unknown=1))
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert not [found.name for found in judgement.recoveries if "clients" in found.name]


def test_workers_that_never_come_back_to_a_full_queue() -> None:
    tale = cut()
    tale.enqueue("waiting", 102, took_s=1.2)
    tale.events.append(Observation(110, ready={"normal": 1}))
    tale.rest(drained=False, places={"waiting": "ready", "cut": "ready"})
    judgement = tale.judged(outage())
    assert judgement.verdict is Verdict.FAIL
    assert recovery(judgement, "first success of workers").measured_s is None


@pytest.mark.parametrize(("until_s", "noticed"), [(101.4, 0), (104.0, 1)])
def test_a_fault_must_be_noticed_if_it_lasts(until_s: float, noticed: int) -> None:
    tale = cut(until_s=until_s)
    tale.events = [event for event in tale.events if not isinstance(event, Observation)]
    tale.events.append(Observation(101.2, ready={"normal": 1}))
    tale.job("after", until_s + 0.2)
    tale.run("cut", 107, worker="worker-2")
    tale.rest()
    found = [measured for measured in tale.judged(outage()).recoveries if "noticed" in measured.name]
    assert [measured.measured_s for measured in found] == [None] * noticed


def test_one_jobs_history_tells_the_faults_too() -> None:
    judgement = twice(LATE_S, LATE_S + 1).judged(late())
    (offender,) = next(i for i in judgement.invariants if i.letter == "D").offenders
    assert len(offender.history) == 8
    tale = lawful()
    tale.enqueue("gone", 100.9)
    tale.rest()
    lines = tale.judged(outage()).invariants[0].offenders[0].history
    assert any("fault outage, until 3.000 s" in line for line in lines)
    assert [float(line.split(" s ")[0]) for line in lines] == sorted(
        float(line.split(" s ")[0]) for line in lines
    )


def test_the_end_is_told_once() -> None:
    tale = lawful()
    tale.rest()
    tale.events.append(AtRest(201, drained=True, enqueued=13, completed=13))
    assert tale.judged(outage()).verdict is Verdict.INVALID


def test_a_run_that_ends_in_another_process_is_a_contradiction() -> None:
    tale = lawful()
    tale.events = [
        msgspec.structs.replace(event, pid=999)
        if isinstance(event, Run) and event.outcome and event.id == "late-3"
        else event
        for event in tale.events
    ]
    tale.rest()
    assert "the journals contradict themselves" in " ".join(tale.judged(outage()).reasons)


def test_an_answer_without_a_question_is_a_contradiction() -> None:
    tale = lawful()
    tale.events.append(Enqueue(105, "early-0", "ok"))
    tale.rest()
    assert tale.judged(outage()).verdict is Verdict.INVALID
