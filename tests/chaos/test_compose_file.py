"""docker-compose.chaos.yml keeps in step with the harness, and its page with both. No Docker is needed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.main import get_command

from chaos.cli.main import cli
from chaos.driving.toxiproxy_binary import IMAGE
from chaos.playing.environment import PREFIX
from chaos.scenario.loading import find_scenario
from chaos.scenario.model import RUN_SETTINGS
from queue_trio.config.load import load_settings
from tests.chaos.compose import DOCUMENT, ROOT, commands_in, load, ports, variables

SERVICES = load({})["services"]
WORKERS = ["worker-1", "worker-2", "worker-3", "worker-4"]


def test_images_are_pinned_and_everybody_has_a_health_check() -> None:
    assert list(SERVICES) == ["redis", "toxiproxy", *WORKERS]
    assert SERVICES["toxiproxy"]["image"] == IMAGE
    assert re.fullmatch(r"redis:\d+\.\d+\.\d+", SERVICES["redis"]["image"])
    assert all(service["healthcheck"]["test"][0] == "CMD" for service in SERVICES.values())
    for service in SERVICES.values():
        for name, condition in service.get("depends_on", {}).items():
            assert name in SERVICES
            assert condition == {"condition": "service_healthy"}


def test_ports_are_published_on_loopback_only_and_each_once() -> None:
    published = [port for service in SERVICES.values() for port in ports(service).values()]
    assert {host for host, _ in published} == {"127.0.0.1"}
    assert len({port for _, port in published}) == len(published) == 8


def test_toxiproxy_has_the_proxies_that_are_published_and_they_lead_to_redis() -> None:
    (mount,) = SERVICES["toxiproxy"]["volumes"]
    proxies = json.loads((ROOT / mount["source"]).read_text())
    assert [proxy["name"] for proxy in proxies] == ["redis-workers", "redis-clients"]
    assert {proxy["upstream"] for proxy in proxies} == {"redis:6379"}
    # Or the harness could not find them where Toxiproxy says that they are.
    defaults = {target: port for target, (_, port) in ports(SERVICES["toxiproxy"]).items()}
    assert all(
        defaults[proxy["listen"].rpartition(":")[2]] == proxy["listen"].rpartition(":")[2]
        for proxy in proxies
    )


@pytest.mark.parametrize("name", WORKERS)
def test_workers_have_the_settings_that_a_run_gives_its_own(name: str) -> None:
    settings = load_settings(environ=SERVICES[name]["environment"])
    for section, values in RUN_SETTINGS.items():
        told = getattr(settings, section).model_dump()
        assert {key: told[key] for key in values} == values
    assert settings.redis.prefix == PREFIX
    assert settings.redis.url.get_secret_value() == "redis://toxiproxy:26380/0"
    assert SERVICES[name]["command"][-1] == f"/journals/{name}.journal"


def test_the_image_has_what_its_file_copies() -> None:
    build = SERVICES["worker-1"]["build"]
    lines = (ROOT / build["dockerfile"]).read_text().splitlines()
    copied = [Path(line.split()[1]) for line in lines if line.startswith("COPY")]
    assert all((ROOT / file).exists() for file in copied)
    kept = (ROOT / f"{build['dockerfile']}.dockerignore").read_text().split()
    assert {f"!{file}" for file in copied} == {word for word in kept if word.startswith("!")}
    assert re.search(r"^FROM python:3\.\d+\.\d+-slim", "\n".join(lines), re.MULTILINE)


# --- the page --------------------------------------------------------------------------------------------------------


def test_every_command_of_the_page_has_options_that_there_are() -> None:
    group = get_command(cli)
    commands = [words[3:] for words in commands_in(DOCUMENT) if words[:3] == ["python", "-m", "chaos"]]
    assert [words[0] for words in commands] == ["run", "suite", "run", "run"]
    for name, *words in commands:
        command = getattr(group, "commands")[name]  # noqa: B009, the type of a group is not told
        context = command.make_context(name, [w if w != "chaos-journals" else str(ROOT) for w in words])
        if name == "run":
            assert find_scenario(context.params["scenario"]).name == context.params["scenario"]


def test_the_page_names_the_services_as_the_file_has_them() -> None:
    against = next(words for words in commands_in(DOCUMENT) if "--journals" in words)
    told = " ".join(against)
    published = {f"127.0.0.1:{port}" for service in SERVICES.values() for _, port in ports(service).values()}
    proxies = {f"127.0.0.1:{port}" for port in ("26380", "26381")}
    assert set(re.findall(r"127\.0\.0\.1:\d+", told)) == published - proxies
    assert variables()["CHAOS_JOURNALS"].removeprefix("./") in against
