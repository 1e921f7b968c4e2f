"""A lawful history always passes, and no single corruption of one does. Both are drawn by Hypothesis."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.history import Action, AtRest, Enqueue, Fault, Run, Settle
from chaos.verdict import Verdict
from tests.chaos.histories import LATE, Tale, scenario

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.history import Event

BEGIN_S, HEALED_S = 110.0, 112.0
AFTER_S = 160.0
"""Long after the fault, so that it explains nothing."""

CHANCE = ("refused", "failed", "unknown", "duplicated")
"""Counts that are drawn."""
SCENARIO = scenario(LATE, expect={"counts": dict.fromkeys(CHANCE, ">= 0")})


@st.composite
def lawful_tales(draw: st.DrawFn) -> Tale:
    """A run in which calls are late for a while: jobs complete, fail and are retried, are cut off, or nobody knows."""
    tale = Tale()
    kinds = st.sampled_from(["quick", "retried", "unknown", "refused", "failed", "cut off", "run twice"])
    for number, kind in enumerate(draw(st.lists(kinds, min_size=1, max_size=25))):
        at_s = draw(st.floats(100, 109))
        _live(tale, f"{kind}-{number}", kind, at_s, draw(st.booleans()))
    for number in range(draw(st.integers(3, 10))):
        tale.job(f"after-{number}", HEALED_S + 0.1 + number / 20, worker=f"worker-{number % 2 + 1}")
    tale.job("plain", 105.0)
    tale.job("much-later", AFTER_S)
    tale.late(BEGIN_S, HEALED_S)
    return tale


def _live(tale: Tale, id: str, kind: str, at_s: float, flag: bool) -> None:
    during_s = BEGIN_S - 0.1
    match kind:
        case "quick":
            tale.job(id, at_s)
        case "retried":
            tale.enqueue(id, at_s)
            tale.run(id, at_s + 0.1, "raised")
            tale.run(id, at_s + 0.5, attempt=2)
        case "unknown":
            tale.enqueue(id, during_s, "info" if flag else None, took_s=1)
            if flag:
                tale.run(id, HEALED_S + 0.2)
        case "refused":
            tale.enqueue(id, at_s, "refused")
        case "failed":
            tale.enqueue(id, during_s, "fail", took_s=1)
        case "cut off":
            tale.enqueue(id, during_s - 0.1)
            tale.run(id, during_s, "cancelled" if flag else "", took_s=1.5)
            tale.run(id, HEALED_S + 3, worker="worker-2")
        case "run twice":
            tale.enqueue(id, during_s - 0.1)
            tale.run(id, during_s, took_s=1.5)
            tale.run(id, HEALED_S + 0.7, worker="worker-2")


def passes(tale: Tale) -> bool:
    return tale.judged(SCENARIO).verdict is Verdict.PASS


@settings(deadline=None)
@given(lawful_tales())
def test_a_lawful_history_passes(tale: Tale) -> None:
    tale.rest()
    judgement = tale.judged(SCENARIO)
    assert judgement.verdict is Verdict.PASS, judgement.reasons
    assert judgement.counts.recovered == len(
        {id for id in ids(tale) if id.startswith("unknown") and ran(tale, id)}
    )
    assert judgement.counts.duplicated == sum(id.startswith("run twice") for id in ids(tale))


def ids(tale: Tale) -> set[str]:
    return {event.id for event in tale.events if isinstance(event, Enqueue)}


def ran(tale: Tale, id: str) -> bool:
    return any(isinstance(event, Run) and event.id == id for event in tale.events)


# --- corruptions: each takes a lawful, finished history and spoils one thing ---------------------------------------


def _without(tale: Tale, *, of: Callable[[Event], bool], rng: random.Random) -> None:
    """One event less, of those that qualify."""
    chosen = rng.choice([event for event in tale.events if of(event)])
    tale.events = [event for event in tale.events if event is not chosen]


def _told(tale: Tale, **otherwise: Any) -> None:
    """The queue's own account, with something changed."""
    rest = tale.events[-1]
    assert isinstance(rest, AtRest)
    tale.events[-1] = msgspec.structs.replace(rest, **otherwise)


def _rest(tale: Tale) -> AtRest:
    rest = tale.events[-1]
    assert isinstance(rest, AtRest)
    return rest


def _is_return_of_single(tale: Tale) -> Callable[[Event], bool]:
    twice = {id for id in ids(tale) if id.startswith("run twice")}
    return lambda event: isinstance(event, Run) and event.outcome == "returned" and event.id not in twice


def drop_the_end_of_a_run(tale: Tale, rng: random.Random) -> None:
    _without(tale, of=_is_return_of_single(tale), rng=rng)


def drop_the_start_of_a_run(tale: Tale, rng: random.Random) -> None:
    ended = {(e.id, e.fence) for e in tale.events if isinstance(e, Run) and e.phase == "end"}
    _without(
        tale, of=lambda e: isinstance(e, Run) and e.phase == "start" and (e.id, e.fence) in ended, rng=rng
    )


def drop_every_run_of_a_job(tale: Tale, rng: random.Random) -> None:
    acknowledged = [e.id for e in tale.events if isinstance(e, Enqueue) and e.phase == "ok"]
    chosen = rng.choice(acknowledged)
    tale.events = [event for event in tale.events if not (isinstance(event, Run) and event.id == chosen)]


def drop_every_enqueue_of_a_job(tale: Tale, rng: random.Random) -> None:
    chosen = rng.choice([event.id for event in tale.events if isinstance(event, Run)])
    tale.events = [event for event in tale.events if not (isinstance(event, Enqueue) and event.id == chosen)]


def drop_an_invoke(tale: Tale, rng: random.Random) -> None:
    answered = {e.id for e in tale.events if isinstance(e, Enqueue) and e.phase != "invoke"}
    _without(tale, of=lambda e: isinstance(e, Enqueue) and e.phase == "invoke" and e.id in answered, rng=rng)


def turn_ok_into_fail(tale: Tale, rng: random.Random) -> None:
    chosen = rng.choice([e for e in tale.events if isinstance(e, Enqueue) and e.phase == "ok"])
    changed = msgspec.structs.replace(chosen, phase="fail")
    tale.events = [changed if event is chosen else event for event in tale.events]


def add_a_run_of_an_unknown_id(tale: Tale, rng: random.Random) -> None:
    tale.events.insert(0, Run(rng.uniform(100, AFTER_S), "ghost", "start", "worker-1", 101, 1, 10_000))


def run_a_job_again(tale: Tale, rng: random.Random) -> None:
    done = [e.id for e in tale.events if isinstance(e, Run) and e.outcome == "returned" and e.at_s > AFTER_S]
    rest = tale.events.pop()
    tale.run(rng.choice(done), AFTER_S + 5, fence=10_000)
    tale.events.append(rest)


def run_a_settled_job_again_during_the_fault(tale: Tale, rng: random.Random) -> None:
    rest = tale.events.pop()
    tale.run("plain", rng.uniform(BEGIN_S, HEALED_S), fence=10_000)
    tale.events.append(rest)


def give_one_lease_to_two_runs(tale: Tale, rng: random.Random) -> None:
    chosen = rng.choice([e for e in tale.events if isinstance(e, Run) and e.phase == "start"])
    tale.events.insert(
        0, msgspec.structs.replace(chosen, at_s=chosen.at_s + 0.001, worker="worker-2", pid=102)
    )


def burn_an_attempt(tale: Tale, rng: random.Random) -> None:
    chosen = rng.choice([e for e in tale.events if isinstance(e, Run)])
    run = chosen.id, chosen.fence
    tale.events = [
        msgspec.structs.replace(e, attempt=e.attempt + 1)
        if isinstance(e, Run) and (e.id, e.fence) == run
        else e
        for e in tale.events
    ]


def count_one_completion_more(tale: Tale, rng: random.Random) -> None:
    _told(tale, completed=_rest(tale).completed + 1)


def count_one_completion_less(tale: Tale, rng: random.Random) -> None:
    _told(tale, completed=_rest(tale).completed - 1)


def count_a_completion_and_an_enqueue_more(tale: Tale, rng: random.Random) -> None:
    _told(tale, completed=_rest(tale).completed + 1, enqueued=_rest(tale).enqueued + 1)


def count_one_enqueue_more(tale: Tale, rng: random.Random) -> None:
    _told(tale, enqueued=_rest(tale).enqueued + 1)


def leave_a_job_behind(tale: Tale, rng: random.Random) -> None:
    chosen = rng.choice(sorted(id for id in ids(tale) if ran(tale, id)))
    _told(tale, places={chosen: rng.choice(["ready", "leased", "scheduled", "dead"])})


def leave_a_job_that_nobody_made(tale: Tale, rng: random.Random) -> None:
    _told(tale, places={"ghost": rng.choice(["ready", "dead"])}, enqueued=_rest(tale).enqueued + 1)


def accept_a_stale_settle(tale: Tale, rng: random.Random) -> None:
    """The run of another worker had begun before it was sent."""
    rest = tale.events.pop()
    tale.enqueue("stale", BEGIN_S - 0.5)
    tale.run("stale", BEGIN_S - 0.4, took_s=5)
    tale.run("stale", HEALED_S + 1, worker="worker-2", took_s=rng.uniform(0.1, 5))
    tale.settle("stale", BEGIN_S + 4.7, fence=tale.fence - 1)
    tale.events.append(rest)
    _told(tale, enqueued=_rest(tale).enqueued + 1, completed=_rest(tale).completed + 1)


def settle_a_job_twice(tale: Tale, rng: random.Random) -> None:
    chosen = rng.choice([e for e in tale.events if isinstance(e, Settle) and e.accepted])
    tale.events.insert(0, msgspec.structs.replace(chosen, at_s=chosen.at_s + 0.1))


def drop_an_outcome(tale: Tale, rng: random.Random) -> None:
    """Its worker goes on, and settles what ended later."""
    _without(tale, of=lambda e: isinstance(e, Settle) and e.id in ("plain", "after-0"), rng=rng)


def never_write_down_a_settle(tale: Tale, rng: random.Random) -> None:
    tale.events = [event for event in tale.events if not isinstance(event, Settle)]


def refuse_without_counting(tale: Tale, rng: random.Random) -> None:
    chosen = rng.choice([e for e in tale.events if isinstance(e, Settle)])
    refused = msgspec.structs.replace(chosen, accepted=False, verdict="retry")
    tale.events.insert(0, refused)


def purge_a_job(tale: Tale, rng: random.Random) -> None:
    _told(tale, purged=1, completed=_rest(tale).completed - 1)


def lose_a_job_and_call_it_purged(tale: Tale, rng: random.Random) -> None:
    rest = tale.events.pop()
    tale.enqueue("gone", 105.0)
    tale.events.append(rest)
    _told(tale, purged=1, enqueued=_rest(tale).enqueued + 1)


def take_a_lease_back(tale: Tale, rng: random.Random) -> None:
    _told(tale, reclaimed=1)


def call_a_job_poison(tale: Tale, rng: random.Random) -> None:
    _told(tale, poisoned=1)


def cancel_a_job(tale: Tale, rng: random.Random) -> None:
    _told(tale, cancelled=1, completed=_rest(tale).completed - 1)


def end_early(tale: Tale, rng: random.Random) -> None:
    _told(tale, drained=False)


def never_ask_what_is_left(tale: Tale, rng: random.Random) -> None:
    tale.events.pop()


def pass_over_a_priority(tale: Tale, rng: random.Random) -> None:
    _told(tale, inversions=("claim 7",))


def find_a_job_in_two_states(tale: Tale, rng: random.Random) -> None:
    _told(tale, violations=("in two states",))


def leave_a_thread_over(tale: Tale, rng: random.Random) -> None:
    _told(tale, leftovers=("a thread",))


def help_by_hand(tale: Tale, rng: random.Random) -> None:
    tale.events.insert(0, Action(105, "restarted Redis", manual=True))


def lose_the_proof_of_the_fault(tale: Tale, rng: random.Random) -> None:
    _without(tale, of=lambda e: isinstance(e, Fault) and e.phase == "active", rng=rng)


def lose_the_proof_of_the_heal(tale: Tale, rng: random.Random) -> None:
    _without(tale, of=lambda e: isinstance(e, Fault) and e.phase == "healed", rng=rng)


def lose_the_fault(tale: Tale, rng: random.Random) -> None:
    tale.events = [event for event in tale.events if not isinstance(event, Fault)]


def recover_too_late(tale: Tale, rng: random.Random) -> None:
    lateness = rng.uniform(2, 20)
    tale.events = [
        msgspec.structs.replace(e, at_s=e.at_s + lateness)
        if isinstance(e, Enqueue | Run)
        and HEALED_S < e.at_s < AFTER_S
        and not (isinstance(e, Enqueue) and e.phase == "invoke")
        else e
        for e in tale.events
    ]


CORRUPTIONS = [
    drop_the_end_of_a_run,
    drop_the_start_of_a_run,
    drop_every_run_of_a_job,
    drop_every_enqueue_of_a_job,
    drop_an_invoke,
    turn_ok_into_fail,
    add_a_run_of_an_unknown_id,
    run_a_job_again,
    run_a_settled_job_again_during_the_fault,
    give_one_lease_to_two_runs,
    burn_an_attempt,
    count_one_completion_more,
    count_one_completion_less,
    count_a_completion_and_an_enqueue_more,
    count_one_enqueue_more,
    leave_a_job_behind,
    leave_a_job_that_nobody_made,
    accept_a_stale_settle,
    settle_a_job_twice,
    drop_an_outcome,
    never_write_down_a_settle,
    refuse_without_counting,
    purge_a_job,
    lose_a_job_and_call_it_purged,
    take_a_lease_back,
    call_a_job_poison,
    cancel_a_job,
    end_early,
    never_ask_what_is_left,
    pass_over_a_priority,
    find_a_job_in_two_states,
    leave_a_thread_over,
    help_by_hand,
    lose_the_proof_of_the_fault,
    lose_the_proof_of_the_heal,
    lose_the_fault,
    recover_too_late,
]


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corrupt: str(corrupt.__name__))
@settings(deadline=None, max_examples=50)
@given(tale=lawful_tales(), seed=st.integers(0, 2**32))
def test_no_corruption_passes(corrupt: Callable[[Tale, random.Random], None], tale: Tale, seed: int) -> None:
    tale.rest()
    assert passes(tale)
    corrupt(tale, random.Random(seed))
    assert not passes(tale)
