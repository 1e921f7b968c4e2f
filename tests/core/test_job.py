"""Ids and records: what they look like, and that a task's frame makes the records that the encoder would make."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final
from uuid import RFC_4122, UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from queue_trio.core.dequeue import Priority
from queue_trio.core.job import RECORD_VERSION, Frame, Record, decode_record, encode_record, new_id

FORKED: Final = """
import os
from queue_trio import App

@App("forks").task
def work() -> None: ...

work.job()  # entropy is there for more
reader, writer = os.pipe()
child = os.fork()
ids = ",".join(work.job().id for _ in range(200))
if not child:
    os.write(writer, ids.encode())
    os._exit(0)
os.waitpid(child, 0)
print(os.read(reader, 65536).decode())
print(ids)
"""


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_an_id_is_a_uuid_of_version_7(now_ms: int, entropy: bytes) -> None:
    made = new_id(now_ms, entropy.hex())
    read = UUID(made)
    assert (read.version, read.variant, read.int >> 80) == (7, RFC_4122, now_ms)
    assert str(read) == made
    digits = made.replace("-", "")
    assert (digits[13:16], digits[17:32]) == (entropy.hex()[:3], entropy.hex()[4:19])


def test_ids_sort_by_time() -> None:
    made = [new_id(now_ms, os.urandom(10).hex()) for now_ms in (1, 15, 16, 2**20, 2**40, 2**48 - 1)]
    assert made == sorted(made)


def test_a_forked_process_makes_other_ids() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=True
    )
    child, parent = ([made[15:] for made in line.split(",")] for line in done.stdout.split())
    assert len(set(child) | set(parent)) == 400


@given(
    task=st.text(min_size=1),
    arguments=st.dictionaries(st.text(), st.integers() | st.text()),
    enqueued_ms=st.integers(0, 2**50),
    priority=st.sampled_from(Priority),
    limits=st.tuples(*[st.none() | st.integers(0, 2**40)] * 3),
)
def test_a_frame_makes_what_the_encoder_makes(
    task: str,
    arguments: dict[str, int | str],
    enqueued_ms: int,
    priority: Priority,
    limits: tuple[int | None, int | None, int | None],
) -> None:
    timeout_ms, max_retries, keep_result_ms = limits
    record = Record(
        v=RECORD_VERSION,
        task=task,
        priority=priority,
        timeout_ms=timeout_ms,
        max_retries=max_retries,
        keep_result_ms=keep_result_ms,
    )
    args = msgspec.json.encode(arguments)
    framed = Frame(record).encode(args, enqueued_ms)
    whole = msgspec.structs.replace(record, args=msgspec.Raw(args), enqueued_ms=enqueued_ms)
    assert decode_record(framed) == decode_record(encode_record(whole))
    if enqueued_ms and arguments:  # what is at its default is left out
        assert framed == encode_record(whole)
