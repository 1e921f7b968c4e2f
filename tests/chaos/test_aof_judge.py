"""S and P from an append-only file written by hand: what is lawful, each kind of breach, and what is damaged."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from chaos.errors import HarnessError
from chaos.judging.aof import transactions
from chaos.judging.aof_judge import FOUND_MAX, Told, judge_file
from queue_trio.core.dequeue import Priority
from queue_trio.core.job import Lane, Record, encode_record
from queue_trio.redis.keys import LANE_KEYS, READY_KEYS, LaneKeys

KEYS = LaneKeys(Lane())
BASE = KEYS["job"].removesuffix("job")
SHORT = {name: KEYS[name] for name in (*LANE_KEYS, *READY_KEYS)}


def record(priority: Priority = Priority.NORMAL) -> bytes:
    return encode_record(Record(v=1, task="t", priority=priority))


RECORDS = {f"<{priority}>": record(priority) for priority in Priority} | {"<bad>": b"\xff no record \x00"}


def packed(command: str, keys: LaneKeys = KEYS) -> bytes:
    """One command as the file has it. Keys go by their short names; <high> is a record that asks for it."""
    words = []
    for word in command.split():
        if word in SHORT:
            words.append(keys[word].encode())
        elif word.startswith("inbox:"):
            words.append(
                keys.inboxes("")[0].removesuffix(":0").encode() + word.removeprefix("inbox:").encode()
            )
        else:
            words.append(RECORDS.get(word, word.encode()))
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def bytes_of(*steps: str, keys: LaneKeys = KEYS) -> bytes:
    """Commands separated by commas make one transaction, as the effects of a script do."""
    data = bytearray()
    for step in steps:
        commands = step.split(", ")
        if len(commands) > 1:
            commands = ["MULTI", *commands, "EXEC"]
        for command in commands:
            data += packed(command, keys)
    return bytes(data)


def aof(folder: Path, *steps: str, keys: LaneKeys = KEYS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "appendonly.aof").write_bytes(bytes_of("SELECT 0", *steps, keys=keys))
    return folder


def told(folder: Path, *steps: str) -> Told:
    return judge_file(aof(folder, *steps), KEYS)


def enqueue(id: str, level: str = "normal") -> str:
    return f"HSETNX job {id} <{level}>, HINCRBY stats enqueued 1, RPUSH ready:{level} {id}, RPUSH wake 1"


def claim(*ids: str, level: str = "normal") -> str:
    leases = " ".join(f"1000 {id}" for id in ids)
    owners = " ".join(f"{id} 2_w:1" for id in ids)
    return f"LPOP ready:{level} {len(ids)}, HINCRBY stats claims 1, ZADD lease {leases}, HSET owner {owners}"


END = "ZREM lease a, HDEL owner a"

# --- what is lawful --------------------------------------------------------------------------------------------------

LAWFUL = {
    "done": f"{END}, HDEL job a, HINCRBY stats completed 1",
    "retried": f"{END}, HINCRBY tries a 1, HSET error a why, ZADD scheduled 2000 2:a",
    "released at once": f"{END}, LPUSH ready:normal a",
    "released for later": f"{END}, ZADD scheduled 2000 2:a",
    "dead": f"{END}, ZADD dead 1500 a, HSET error a why",
    "renewed": "ZADD lease XX 3000 a",
    "claimed again, after its reply was lost": "HDEL owner nobody, ZADD lease XX 3000 a",
    "set back with the clock": "ZADD lease XX 900 a, HSET control swept_ms 1",
    "reclaimed": f"HSET control swept_ms 1, {END}, HSET crashes a w:1, LPUSH ready:normal a, RPUSH wake 1",
    "poisoned": f"{END}, HSET crashes a w:1, ZADD dead 1500 a, HSET error a why",
    "its record spoilt": "HSET job a <bad>",
    "a call recorded": "SET qt:{default.0}:session:w 7_aaa PX 86400000",
}


@pytest.mark.parametrize("step", LAWFUL.values(), ids=LAWFUL)
def test_every_end_of_a_lease_is_lawful(tmp_path: Path, step: str) -> None:
    found = told(tmp_path, enqueue("a"), claim("a"), step)
    assert (found.misplaced, found.inversions, found.leases) == ((), (), 1)


AFTERWARDS = {
    "purged": "HDEL job a, HDEL tries a, HINCRBY stats purged 1",
    "replayed": "HDEL tries a, RPUSH ready:normal a, RPUSH wake 1",
    "repaired": "LPUSH ready:normal a",
}


@pytest.mark.parametrize("step", AFTERWARDS.values(), ids=AFTERWARDS)
def test_every_way_out_of_the_dead_is_lawful(tmp_path: Path, step: str) -> None:
    found = told(tmp_path, enqueue("a"), claim("a"), LAWFUL["dead"], f"ZREM dead a, {step}")
    assert (found.misplaced, found.inversions) == ((), ())


def test_a_delayed_job_is_promoted_claimed_and_done(tmp_path: Path) -> None:
    found = told(
        tmp_path,
        "HSETNX job a <high>, HINCRBY stats enqueued 1, ZADD scheduled 2000 1:a, ZADD unique 9000 a",
        f"ZREM scheduled 1:a, RPUSH ready:high a, {claim('a', level='high')}",
        LAWFUL["done"],
    )
    assert (found.misplaced, found.inversions, found.leases, found.places) == ((), (), 1, {})


@pytest.mark.parametrize("step", ["ZREM scheduled 2:a", "LREM ready:normal 1 a"])
def test_a_cancelled_job_is_gone(tmp_path: Path, step: str) -> None:
    place = "ZADD scheduled 9 2:a" if "scheduled" in step else "RPUSH ready:normal a"
    found = told(
        tmp_path, f"HSETNX job a <normal>, {place}", f"{step}, HDEL job a, HINCRBY stats cancelled 1"
    )
    assert (found.misplaced, found.places) == ((), {})


@pytest.mark.parametrize(
    "move",
    [
        "LMOVE ready:normal inbox:w:2 LEFT RIGHT",
        "BLMOVE ready:normal inbox:w:2 LEFT RIGHT 0.1",
        "LPOP ready:normal, RPUSH inbox:w:2 a",
    ],
)
def test_looped_goes_by_way_of_an_inbox(tmp_path: Path, move: str) -> None:
    adopt = "LPOP inbox:w:2 8, ZADD lease 9 a, HSET owner a 2_w:1"
    found = told(tmp_path, enqueue("a"), move, adopt, LAWFUL["done"])
    assert (found.misplaced, found.leases, found.places) == ((), 1, {})


def test_the_inbox_of_a_worker_that_is_gone_goes_back(tmp_path: Path) -> None:
    bury = "RPOP inbox:w:2 500, LPUSH ready:normal b a, ZREM workers w"
    moves = ["LMOVE ready:normal inbox:w:2 LEFT RIGHT"] * 2
    found = told(tmp_path, enqueue("a"), enqueue("b"), *moves, bury, claim("a", "b"))
    assert (found.misplaced, found.inversions, found.leases) == ((), (), 2)


def test_an_id_may_come_again_with_another_priority_when_it_is_done(tmp_path: Path) -> None:
    found = told(
        tmp_path, enqueue("a"), claim("a"), LAWFUL["done"], enqueue("a", "high"), claim("a", level="high")
    )
    assert (found.misplaced, found.inversions, found.leases) == ((), (), 2)


@pytest.mark.parametrize("emptied", ["DEL", "UNLINK"])
def test_a_pop_that_empties_a_list_may_be_written_as_its_end(tmp_path: Path, emptied: str) -> None:
    found = told(tmp_path, enqueue("a"), claim("a").replace("LPOP ready:normal 1", f"{emptied} ready:normal"))
    assert (found.misplaced, found.places) == ((), {"a": ("lease",)})


def test_what_is_taken_in_order_is_no_inversion(tmp_path: Path) -> None:
    both = "LPOP ready:high 2, LPOP ready:low 1, ZADD lease 9 c 9 a, HSET owner c 1_w:1 a 3_w:1"
    back = "ZREM lease c, HDEL owner c, LPUSH ready:high c"
    cancel = "LREM ready:high 1 c, HDEL job c"
    steps = [enqueue("a", "low"), enqueue("b", "low"), enqueue("c", "high"), both, back, cancel]
    found = told(tmp_path, *steps, claim("b", level="low"))
    assert (found.misplaced, found.inversions, found.leases) == ((), (), 3)


# --- S broken --------------------------------------------------------------------------------------------------------

MISPLACED = {
    "taken and not put back": (
        "ZREM lease a",
        "nowhere, though it has a record (was in lease), after transaction 3",
    ),
    "leased and ready": (
        "LPUSH ready:normal a",
        "in lease and ready:normal (was in lease) after transaction 3",
    ),
    "twice in a list": (f"{END}, LPUSH ready:normal a a", "in ready:normal and ready:normal"),
    "dead and scheduled": (f"{END}, ZADD dead 9 a, ZADD scheduled 9 2:a", "in dead and scheduled"),
    "in two lists": (f"{END}, RPUSH ready:normal a, RPUSH ready:low a", "in ready:normal and ready:low"),
    "no record any more": ("HDEL job a", "in lease, and has no record (was in lease), after transaction 3"),
    "never had one": ("RPUSH ready:normal b", "in ready:normal, and has no record (was nowhere), after"),
    "all records gone": ("DEL job", "in lease, and has no record"),
    "all leases gone": ("UNLINK lease", "nowhere, though it has a record"),
    "the ready and the inbox": (
        f"{END}, RPUSH ready:normal a, RPUSH inbox:w:2 a",
        "in ready:normal and inbox:normal",
    ),
}


@pytest.mark.parametrize(("step", "words"), MISPLACED.values(), ids=MISPLACED)
def test_a_job_that_is_not_in_one_place_is_told(tmp_path: Path, step: str, words: str) -> None:
    found = told(tmp_path, enqueue("a"), claim("a"), step)
    (line,) = found.misplaced
    assert line.startswith(f"{'b' if ' b' in step else 'a'}: {words}"), line
    assert line.endswith("of 3, and it stayed so")


def test_a_reap_in_two_steps_is_told_although_the_end_is_right(tmp_path: Path) -> None:
    found = told(
        tmp_path, *map(enqueue, "ab"), claim("a", "b"), "ZREM lease a b, HDEL owner a b",
        "LPUSH ready:normal b", enqueue("c"), "LPUSH ready:normal a",
    )  # fmt: skip
    assert found.misplaced == (
        "a: nowhere, though it has a record (was in lease), after transaction 4 of 7, until transaction 7",
        "b: nowhere, though it has a record (was in lease), after transaction 4 of 7, until transaction 5",
    )


def test_what_is_never_mended_comes_first_and_not_all_are_told(tmp_path: Path) -> None:
    ids = [f"job-{number}" for number in range(FOUND_MAX + 5)]
    twice = [f"RPUSH ready:normal {id}" for id in ids]
    mend = [f"LREM ready:normal 1 {id}" for id in ids[:-1]]
    found = told(tmp_path, *map(enqueue, ids), *twice, *mend)
    assert len(found.misplaced) == FOUND_MAX
    assert found.misplaced[0].startswith(f"{ids[-1]}: ")
    assert found.misplaced[0].endswith("it stayed so")


# --- P broken --------------------------------------------------------------------------------------------------------


def test_who_is_passed_over_is_told(tmp_path: Path) -> None:
    found = told(
        tmp_path, enqueue("a", "low"), enqueue("c", "high"), enqueue("d", "high"), claim("a", level="low")
    )
    assert found.inversions == (
        "a: transaction 4 took it (low) and left c (high) and 1 more of a higher priority ready",
    )
    assert found.misplaced == ()


FROM_HOME = {
    "reclaimed": f"{END}, LPUSH ready:low a",
    "released": f"{END}, LPUSH ready:high a",
    "retried": f"{END}, ZADD scheduled 9 3:a",
    "in an inbox": f"{END}, RPUSH inbox:w:3 a",
    "of no priority": f"{END}, ZADD scheduled 9 7:a",
}


@pytest.mark.parametrize("step", FROM_HOME.values(), ids=FROM_HOME)
def test_a_job_that_goes_to_another_list_than_its_own_is_an_inversion(tmp_path: Path, step: str) -> None:
    found = told(tmp_path, enqueue("a"), claim("a"), step)
    (line,) = found.inversions
    assert line.startswith("a: its priority is normal, and transaction 3 put it into ")
    assert found.misplaced == ()


def test_a_promotion_to_another_list_is_an_inversion(tmp_path: Path) -> None:
    found = told(
        tmp_path, "HSETNX job a <high>, ZADD scheduled 9 1:a", "ZREM scheduled 1:a, RPUSH ready:low a"
    )
    assert found.inversions == ("a: its priority is high, and transaction 2 put it into ready:low",)


def test_the_record_says_what_its_priority_is_and_not_the_first_list(tmp_path: Path) -> None:
    found = told(tmp_path, "HSETNX job a <critical>, RPUSH ready:normal a")
    assert found.inversions == ("a: its priority is critical, and transaction 1 put it into ready:normal",)


def test_of_a_record_that_nobody_can_decode_the_first_list_says_it(tmp_path: Path) -> None:
    first = "HSETNX job a <bad>, RPUSH ready:low a"
    assert told(tmp_path, first, claim("a", level="low"), f"{END}, LPUSH ready:low a").inversions == ()
    assert told(tmp_path, first, claim("a", level="low"), f"{END}, LPUSH ready:high a").inversions != ()


# --- the file --------------------------------------------------------------------------------------------------------

STEPS = (enqueue("a"), claim("a"), LAWFUL["done"])


def test_what_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    """At any byte: the server does the same when it starts again."""
    whole = bytes_of(*STEPS)
    first = len(bytes_of(*STEPS[:2]))
    for cut in range(first, len(whole)):
        (tmp_path / "appendonly.aof").write_bytes(whole[:cut])
        found = judge_file(tmp_path, KEYS)
        assert (found.transactions, found.misplaced, found.places) == (2, (), {"a": ("lease",)}), cut


def in_parts(folder: Path, *parts: bytes) -> Path:
    """As Redis 7 has it: a snapshot of an empty server, then files of commands, numbered 1, 10, 19 and so on."""
    lines = ["file appendonly.aof.1.base.rdb seq 1 type b"]
    (folder / "appendonly.aof.1.base.rdb").write_bytes(b"REDIS0011 of an empty server")
    for number, part in enumerate(parts):
        name = f"appendonly.aof.{1 + 9 * number}.incr.aof"
        (folder / name).write_bytes(part)
        lines.insert(1, f"file {name} seq {1 + 9 * number} type i")
    (folder / "appendonly.aof.manifest").write_text("\n".join(lines) + "\n")
    return folder


def test_the_parts_of_a_file_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    found = judge_file(in_parts(tmp_path, *map(bytes_of, STEPS)), KEYS)
    assert (found.transactions, found.leases, found.misplaced, found.places) == (3, 1, (), {})


def test_what_was_cut_off_in_one_part_does_not_go_on_in_the_next(tmp_path: Path) -> None:
    cut = bytes_of(STEPS[0]) + bytes_of(STEPS[1]).removesuffix(bytes_of("EXEC"))
    found = judge_file(in_parts(tmp_path, cut, bytes_of("LREM ready:normal 1 a, HDEL job a")), KEYS)
    assert (found.transactions, found.leases, found.misplaced, found.places) == (2, 0, (), {})


def test_another_database_is_not_ours(tmp_path: Path) -> None:
    elsewhere = ("SELECT 9", "DEL job", "HSETNX job b <normal>", "SELECT 0")
    found = told(tmp_path, STEPS[0], *elsewhere, STEPS[1], "SELECT 9, DEL lease, SELECT 0", STEPS[2])
    assert (found.misplaced, found.places, found.leases) == ((), {}, 1)
    assert len(list(transactions(tmp_path, 9))) == 3 + 3, "each transaction counts, whatever is in it"


def test_another_prefix_and_another_queue_are_not_ours(tmp_path: Path) -> None:
    for other in (LaneKeys(Lane(), "other"), LaneKeys(Lane("emails"))):
        found = judge_file(aof(tmp_path, *STEPS[:2], "ZREM lease a", keys=other), KEYS)
        assert (found.leases, found.misplaced, found.transactions) == (0, (), 3)
        found = judge_file(tmp_path, other)
        assert (found.leases, len(found.misplaced)) == (1, 1)


UNKNOWN = {
    "a list": "LTRIM ready:low 0 1",
    "a move out of the lane": "LMOVE ready:normal other LEFT RIGHT",
    "a move into it": "RPOPLPUSH other ready:low",
    "a sorted set": "ZPOPMIN dead",
    "the second key": "RENAME other job",
    "a script by its text": "EVALSHA 0123 1 job a",
    "an inbox": "EXPIRE inbox:w:2 10",
}


@pytest.mark.parametrize("step", UNKNOWN.values(), ids=UNKNOWN)
def test_a_write_that_nobody_knows_is_an_error(tmp_path: Path, step: str) -> None:
    with pytest.raises(HarnessError, match=f"^append-only file: {step.split()[0]} "):
        told(tmp_path, enqueue("a"), step)


def test_a_file_that_cannot_be_judged_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="there is no append-only file"):
        judge_file(tmp_path, KEYS)
    file = tmp_path / "appendonly.aof"
    file.write_bytes(b"REDIS0009 and a snapshot" + bytes_of(*STEPS))
    with pytest.raises(HarnessError, match="it was rewritten"):
        judge_file(tmp_path, KEYS)
    file.write_bytes(bytes_of(*STEPS) + b"what is this\r\n")
    with pytest.raises(HarnessError, match="is damaged"):
        judge_file(tmp_path, KEYS)
    file.write_bytes(bytes_of("EXEC"))
    with pytest.raises(HarnessError, match="EXEC without MULTI"):
        judge_file(tmp_path, KEYS)
    (tmp_path / "appendonly.aof.manifest").write_text("file appendonly.aof.2.base.rdb seq 2 type b\n")
    with pytest.raises(HarnessError, match="it was rewritten"):
        judge_file(tmp_path, KEYS)


def test_an_empty_file_tells_of_no_lease(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_bytes(b"")
    assert judge_file(tmp_path, KEYS) == Told(0, 0, (), (), {})


def test_a_hundred_thousand_commands_take_no_time(tmp_path: Path) -> None:
    rng = random.Random(5)
    steps: list[str] = []
    for number in range(0, 9_999, 3):
        ids = [f"{number + at:08}-0000-7000-8000-0123456789ab" for at in range(3)]
        level = rng.choice(("high", "normal", "low"))
        steps += [enqueue(id, level) for id in ids]
        steps.append(claim(*ids, level=level))
        all_ = " ".join(ids)
        steps.append(f"ZREM lease {all_}, HDEL owner {all_}, HDEL job {all_}, HINCRBY stats completed 3")
    aof(tmp_path, *steps)
    began_s = time.process_time()
    found = judge_file(tmp_path, KEYS)
    took_s = time.process_time() - began_s
    assert (found.transactions, found.leases, found.places) == (len(steps), 9_999, {})
    assert found.misplaced == found.inversions == ()
    assert took_s < 2, "of the processor's time"
