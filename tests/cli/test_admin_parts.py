"""The parts of the admin commands that know no Redis: durations, filters, the pace, the file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import typer

from queue_trio.cli.admin.acts import login, utc_text
from queue_trio.cli.admin.export import Export, default_path, exported
from queue_trio.cli.admin.filters import Filters, Tally, identify, parse_age
from queue_trio.cli.admin.pace import Pace
from queue_trio.cli.admin.sifting import Sifter
from queue_trio.core.dequeue import Priority
from queue_trio.core.job import Failure, Lane, Record, State, encode_failure, encode_record
from queue_trio.core.store import MAX_BATCH, PeekedJob
from queue_trio.errors import InternalError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from queue_trio.core.operations import Operations

LANE = Lane("default")


def dead(
    job_id: str, at_ms: int, *, task: str = "t", failure: Failure | None = None, size: int = 0
) -> PeekedJob:
    raw = encode_record(Record(1, task, headers={"x": "y" * size} if size else None))
    errors = (f"{at_ms} {encode_failure(failure).decode()}",) if failure else ()
    return PeekedJob(job_id, State.DEAD, raw, at_ms, Priority.HIGH, errors=errors)


# --- durations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("12h", 43_200),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("1.5h", 5400),
        ("1d12h", 129_600),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "-1d", "1d-", "1y", "7D", "1e3s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write it as 90s"):
        parse_age(text)


# --- filters -------------------------------------------------------------------------------------------------------


def test_filters_by_task_and_error() -> None:
    assert Filters().fits(None, "")
    assert Filters(task="mail.*").fits("mail.send", "")
    assert not Filters(task="mail.*").fits("gmail.send", "")
    assert not Filters(task="*").fits(None, "")  # a record that cannot be read has no task
    assert Filters(error="TIMEOUT").fits("t", "TimeoutError: slow")
    assert Filters(error="straße").fits("t", "ValueError: STRASSE")
    assert not Filters(task="t", error="x").fits("t", "ValueError: y")


def test_filters_by_age() -> None:
    both = Filters(older_s=10, newer_s=60)
    assert (both.since_ms(100_000), both.until_ms(100_000)) == (40_000, 90_000)
    assert (Filters().since_ms(100_000), Filters().until_ms(100_000)) == (None, 100_000)
    assert both.as_json() == {"older_than_s": 10, "newer_than_s": 60}


def test_what_kind_of_job_it_is() -> None:
    task, error, kind = identify(dead("a", 1, failure=Failure(type="E", message="m")))
    assert (task, error, kind) == ("t", "E: m", ("t", "E"))
    assert identify(PeekedJob("a", State.DEAD, b"\xff")) == (None, "", ("?", "?"))
    nonsense = PeekedJob("a", State.DEAD, None, errors=("1 nonsense",))
    assert identify(nonsense) == (None, "?: 1 nonsense", ("?", "?"))


def test_a_tally_counts_kinds() -> None:
    tally = Tally()
    for number, queue in enumerate(("a", "b", "a")):
        tally.add(queue, identify(dead("x", number))[2], number)
    assert (tally.total, tally.oldest_ms, tally.newest_ms) == (3, 0, 2)
    assert [(kind["queue"], kind["count"]) for kind in tally.as_json()] == [("a", 2), ("b", 1)]


# --- pages ---------------------------------------------------------------------------------------------------------


class _Lists:
    """Dead jobs as a list, and how many were asked for each time."""

    def __init__(self, jobs: list[PeekedJob], *, stuck: bool = False) -> None:
        self.jobs = jobs
        self.stuck = stuck
        self.asked: list[int] = []

    async def browse_dead(
        self, lane: Lane, *, after: tuple[int, str] | None = None, count: int
    ) -> list[PeekedJob]:
        self.asked.append(count)
        start = (-1, "") if after is None or self.stuck else after
        return [job for job in self.jobs if ((job.at_ms or 0), job.id) > start][:count]


def as_operations(lists: _Lists) -> Operations:
    from typing import cast

    return cast("Operations", lists)


async def all_ids(sifter: Sifter) -> list[str]:
    ids = []
    while (page := await sifter.page()) is not None:
        ids += [job.id for job, _ in page[1]]
    return ids


async def test_pages_meet_every_job_once() -> None:
    jobs = [dead(f"{number:04}", number // 100) for number in range(2000)]
    sifter = Sifter(as_operations(_Lists(jobs)), [LANE], Filters(), now_ms=100)
    assert await all_ids(sifter) == [job.id for job in jobs]
    assert sifter.looked == 2000
    few = Sifter(as_operations(_Lists(jobs)), [LANE, Lane("b")], Filters(), now_ms=100, limit=2003)
    assert len(await all_ids(few)) == 2003
    window = Sifter(as_operations(_Lists(jobs)), [LANE], Filters(newer_s=0.095, older_s=0.09), now_ms=100)
    assert await all_ids(window) == [job.id for job in jobs[500:1100]]


async def test_pages_are_bounded_by_jobs_and_by_bytes() -> None:
    small = _Lists([dead(f"{number:04}", number) for number in range(3000)])
    await all_ids(Sifter(as_operations(small), [LANE], Filters(), now_ms=10_000))
    assert max(small.asked) == MAX_BATCH
    large = _Lists([dead(f"{number:04}", number, size=1_000_000) for number in range(60)])
    await all_ids(Sifter(as_operations(large), [LANE], Filters(), now_ms=10_000))
    assert max(large.asked[1:]) == 4


async def test_pages_that_do_not_move_on_are_no_endless_loop() -> None:
    stuck = _Lists([dead(f"{number:04}", number) for number in range(300)], stuck=True)
    with pytest.raises(InternalError, match="have no order"):
        await all_ids(Sifter(as_operations(stuck), [LANE], Filters(), now_ms=10_000))


async def test_dead_jobs_of_one_instant_are_met_once() -> None:
    jobs = [dead(f"{number:04}", 7) for number in range(1200)]
    assert await all_ids(Sifter(as_operations(_Lists(jobs)), [LANE], Filters(), now_ms=7)) == [
        job.id for job in jobs
    ]


# --- the pace ------------------------------------------------------------------------------------------------------


def test_the_pace_keeps_its_rate() -> None:
    pace = Pace(100, batch_max=500)
    assert pace.batch == 10
    now_s = 0.0
    for _ in range(50):
        now_s += pace.take(10, now_s)
    assert now_s == pytest.approx(4.9)
    # A pause is no credit: what was not used in time is lost.
    assert pace.take(10, 100.0) == 0
    assert pace.take(10, 100.0) == pytest.approx(0.1)


def test_the_pace_without_a_limit_and_with_a_low_one() -> None:
    free = Pace(0, batch_max=500)
    assert (free.batch, free.take(500, 0.0), free.take(500, 0.0)) == (500, 0, 0)
    slow = Pace(0.5, batch_max=500)
    assert (slow.batch, slow.take(1, 7.0), slow.take(1, 7.0)) == (1, 0, 2)
    assert Pace(1_000_000, batch_max=500).batch == 500


# --- the file ------------------------------------------------------------------------------------------------------


async def test_the_file_is_made_with_the_first_batch(tmp_path: Path) -> None:
    export = Export(tmp_path / "out")
    export.close()
    assert not (tmp_path / "out").exists()
    await export.append(LANE, [dead("a", 5)])
    await export.append(LANE, [dead("b", 6)])
    export.close()
    export.close()
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert lines == [exported(LANE, dead("a", 5)), exported(LANE, dead("b", 6))]
    assert lines[0] == {
        "id": "a",
        "queue": "default",
        "partition": 0,
        "died_ms": 5,
        "priority": "high",
        "tries": 0,
        "crashes": 0,
        "record": '{"v":1,"task":"t"}',
        "history": [],
    }


async def test_nothing_is_overwritten_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("there", "link"):
        with pytest.raises(UsageError, match="not overwritten"):
            await Export(tmp_path / name).append(LANE, [dead("a", 5)])
    assert (tmp_path / "there").read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()


def test_the_default_name_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    at = utc_text(1_790_000_000_000)
    first = default_path("emails", at)
    assert str(first) == "purged-emails-20260921T141320Z.ndjson"
    first.write_text("")
    assert str(default_path("emails", at)) == "purged-emails-20260921T141320Z-2.ndjson"
    assert str(default_path(None, at)) == "purged-all-20260921T141320Z.ndjson"


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import getpass

    def nobody() -> str:
        raise OSError("No username set in the environment")

    assert "@" in login()
    monkeypatch.setattr(getpass, "getuser", nobody)
    assert login().partition("@")[0].isdigit()
