"""What is seen of faults that hit somebody, or nobody: a real Toxiproxy, a real server, and whole runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import trio
from pydantic import TypeAdapter

from chaos.driving.toxiproxy import Toxic
from chaos.driving.toxiproxy_binary import ensure_toxiproxy
from chaos.driving.toxiproxy_server import open_toxiproxy
from chaos.history import SUFFIX, Dropped, Journal, Observation, Probe, read_history
from chaos.judging.bites import Bite, bite_of
from chaos.playing import injection
from chaos.playing.runner import run_scenario
from chaos.playing.witness import Witness
from chaos.scenario.faults import Fault as AnyFault
from chaos.scenario.model import Scenario
from chaos.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from chaos.driving.toxiproxy import Proxy
    from chaos.result import Result
    from queue_trio.server_binary import ServerBinary
    from tests.support import SharedRedis

HOLD_S = 0.6


@pytest.fixture(scope="session")
def toxiproxy_binary() -> Path:
    return ensure_toxiproxy(print)


@pytest.fixture
async def proxy(toxiproxy_binary: Path, redis_server: SharedRedis) -> AsyncIterator[Proxy]:
    async with open_toxiproxy(toxiproxy_binary) as server:
        yield await server.create("redis", f"127.0.0.1:{redis_server.port}")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / f"harness{SUFFIX}", clock=time.time)
    yield journal
    journal.close()


def bite(**told: Any) -> Bite:
    fault: AnyFault = TypeAdapter(AnyFault).validate_python({"for": 1.0, **told})
    return bite_of(fault, disrupts=True)


async def watched(proxy: Proxy, journal: Journal, wanted: Bite, toxic: Toxic | None) -> Witness:
    """Before, while `toxic` is on the proxy (or the proxy is down), and after."""
    witness = Witness("it", {"workers": proxy}, wanted, journal)
    await witness.before()
    await (proxy.disable() if toxic is None else proxy.add(toxic))
    with trio.move_on_after(HOLD_S):
        await witness.during()
    await (proxy.enable() if toxic is None else proxy.remove(toxic.name))
    await witness.after()
    return witness


def probes(tmp_path: Path) -> tuple[Probe, list[Probe]]:
    """The quickest before, and those during."""
    found = [event for event in read_history(tmp_path) if isinstance(event, Probe)]
    assert [probe.route for probe in found] == ["workers"] * len(found)
    before = min((probe for probe in found if probe.before), key=lambda probe: probe.took_s)
    assert (before.outcome, before.pieces) == ("answered", 1)
    return before, [probe for probe in found if not probe.before]


async def test_a_proxy_that_is_down_refuses_every_question(
    proxy: Proxy, journal: Journal, tmp_path: Path
) -> None:
    await watched(proxy, journal, bite(kind="proxy_down"), None)
    _, during = probes(tmp_path)
    assert len(during) >= 2
    assert {probe.outcome for probe in during} == {"refused"}


@pytest.mark.parametrize(
    ("kind", "stream", "attributes", "outcome"),
    [
        ("timeout", "upstream", {"timeout": 0}, "silent"),
        ("timeout", "downstream", {"timeout": 50}, "cut"),
        ("limit_data", "downstream", {"bytes": 700}, "cut"),
        ("limit_data", "upstream", {"bytes": 700}, "cut"),
        ("reset_peer", "downstream", {"timeout": 0}, "cut"),
    ],
)
async def test_what_breaks_a_connection_breaks_the_question(
    proxy: Proxy,
    journal: Journal,
    tmp_path: Path,
    kind: str,
    stream: Any,
    attributes: dict[str, int],
    outcome: str,
) -> None:
    wanted = bite(kind=kind, stream=stream, **attributes)
    await watched(proxy, journal, wanted, Toxic("it", kind, stream, attributes))
    _, during = probes(tmp_path)
    # The last one may have been given up with the fault.
    assert {probe.outcome for probe in during[:-1]} == {outcome}
    assert not [event for event in read_history(tmp_path) if isinstance(event, Dropped)]


@pytest.mark.parametrize(
    ("kind", "attributes", "late_s"),
    [("latency", {"latency": 120}, 0.12), ("bandwidth", {"rate": 100}, 0.1)],
)
async def test_what_is_slow_makes_every_answer_late(
    proxy: Proxy, journal: Journal, tmp_path: Path, kind: str, attributes: dict[str, int], late_s: float
) -> None:
    wanted = bite(kind=kind, **attributes)
    await watched(proxy, journal, wanted, Toxic("it", kind, "downstream", attributes))
    before, during = probes(tmp_path)
    whole = [probe for probe in during if probe.outcome == "answered"]
    assert min(probe.took_s for probe in whole) >= late_s == pytest.approx(wanted.late_ms / 1000)
    assert before.took_s < late_s


async def test_slices_are_seen_as_pieces(proxy: Proxy, journal: Journal, tmp_path: Path) -> None:
    attributes = {"average_size": 1, "size_variation": 0, "delay": 5}
    await watched(
        proxy, journal, bite(kind="slicer", **attributes), Toxic("it", "slicer", "downstream", attributes)
    )
    _, during = probes(tmp_path)
    assert min(probe.pieces for probe in during if probe.outcome == "answered") > 1


async def test_a_slow_close_is_seen_at_the_end_of_the_stream(
    proxy: Proxy, journal: Journal, tmp_path: Path
) -> None:
    wanted = bite(kind="slow_close", delay=150)
    await watched(proxy, journal, wanted, Toxic("it", "slow_close", "downstream", {"delay": 150}))
    before, during = probes(tmp_path)
    # The last one may have been given up with the fault.
    assert min(probe.closing_s for probe in during if probe.closing_s is not None) >= 0.15
    assert before.closing_s is not None
    assert before.closing_s < 0.15


async def test_bytes_of_others_that_are_dropped_are_told_and_ours_are_not(
    proxy: Proxy, journal: Journal, tmp_path: Path
) -> None:
    async def somebody() -> None:
        async with await trio.open_tcp_stream(*proxy.address) as stream:
            await stream.send_all(b"PING\r\n")
            await trio.sleep(HOLD_S / 2)

    async with trio.open_nursery() as nursery:
        witness = Witness(
            "it", {"workers": proxy}, bite(kind="timeout", timeout=0, stream="upstream"), journal
        )
        await witness.before()
        await proxy.add(Toxic("it", "timeout", "upstream", {"timeout": 0}))
        nursery.start_soon(somebody)
        with trio.move_on_after(HOLD_S):
            await witness.during()
        await proxy.remove("it")
        await witness.after()
    (dropped,) = [event for event in read_history(tmp_path) if isinstance(event, Dropped)]
    assert dropped.bytes == len(b"PING\r\n")


# --- whole runs ----------------------------------------------------------------------------------------------------


async def run(server: ServerBinary, *steps: dict[str, Any], **more: Any) -> Result:
    told = {
        "name": "by-hand",
        "title": "By hand",
        "promises": "N",
        "steps": [*steps, {"settle": {"within": 10}}],
    }
    scenario = Scenario.model_validate(told | more)
    return await run_scenario(scenario, seed=1, command="again", say=lambda _: None, server=server)


HANDED_OVER = (
    {"load": {"jobs": 40, "rate": None, "kind": "slow", "seconds": 1.0}},
    {"wait": {"loaded": True}},
)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"kind": "latency", "latency": 100, "for": 1}, "nobody it should hit did anything meanwhile"),
        ({"kind": "timeout", "timeout": 0, "for": 1}, "nobody it should hit had any trouble"),
    ],
)
async def test_a_fault_on_a_way_that_nobody_takes_proves_nothing(
    server_binary: ServerBinary, fault: dict[str, Any], why: str
) -> None:
    result = await run(server_binary, *HANDED_OVER, {"fault": fault | {"proxies": ["clients"]}})
    assert result.judgement.verdict is Verdict.INVALID
    assert f"fault {fault['kind']} did not bite: {why} (producer-1)" in result.judgement.reasons


async def test_a_phase_that_never_comes_makes_the_run_invalid(
    server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(injection, "PHASE_S", 0.5)
    kill = {"kind": "worker_kill", "phase": "sweeping", "names": ["worker-1"], "for": 0.2}
    result = await run(server_binary, {"load": {"jobs": 20}}, {"fault": kill})
    assert result.judgement.verdict is Verdict.INVALID
    assert "did not come to 'sweeping' within 0.5 s" in result.judgement.reasons[0]
    assert result.judgement.counts.completed == 20
    assert result.judgement.counts.manual_interventions == 0


async def test_producers_are_seen_as_workers_are(server_binary: ServerBinary) -> None:
    down = {"kind": "proxy_down", "for": 0.8, "proxies": ["clients"]}
    result = await run(
        server_binary, {"load": {"jobs": 100, "rate": 40}}, {"wait": {"seconds": 0.5}}, {"fault": down}
    )
    assert result.judgement.verdict is Verdict.PASS, result.judgement.reasons
    seen = [event for event in result.history if isinstance(event, Observation)]
    speakers = {who for event in seen for who in event.errors}
    (client,) = [who for who in speakers if who.startswith("producer-1#")]
    assert speakers == {"worker-1", "worker-2", client}
    told = [event for event in seen if client in event.errors]
    assert {event.breaker[client] for event in told} <= {"closed", "open", "half_open"}
    assert told[0].errors == {client: 0}
    assert 0 < told[-1].connects[client] <= told[-1].errors[client] + 1
    assert f"{client}: " in result.judgement.proofs[0].seen[-1]
