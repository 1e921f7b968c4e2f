"""The measurement of tracing: what is taken for a trace that arrived, and a run that really sends some."""

from __future__ import annotations

import urllib.request

import trio

from bench.catalogue import OURS
from bench.peers.queue_trio import _tracing
from bench.tracing import FIGURES, collector, measure


def test_the_collector_counts_what_it_is_sent() -> None:
    with collector() as (port, received):
        for size in (0, 100_000):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/traces", b"x" * size, 10) as reply:
                assert reply.status == 200
        assert received == []  # told afterwards
    assert len(received) == 2


def test_ours_traces_only_when_the_variant_says_so() -> None:
    assert not _tracing(OURS.variant).enabled
    traced = _tracing("traced 0.01 4318")
    assert (traced.enabled, traced.sample_ratio) == (True, 0.01)
    assert traced.endpoint == "http://127.0.0.1:4318/v1/traces"


def test_a_round_measures_both_and_spans_arrive() -> None:
    with collector() as (port, received):
        ((off, on),) = trio.run(measure, 1, 30_000, port)
    assert off.keys() >= FIGURES.keys()
    assert on.keys() >= FIGURES.keys()
    assert received
