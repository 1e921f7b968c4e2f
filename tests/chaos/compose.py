"""docker-compose.chaos.yml as data, and what its services come to as processes of this machine."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.chaos.yml"
DOCUMENT = ROOT / "docs" / "chaos-staging.md"

_VARIABLE = re.compile(r"\$\{(?P<name>\w+):-(?P<default>[^}]*)\}")
_PORT = re.compile(r"(?P<host>[\d.]+):(?P<published>\d+):(?P<target>\d+)")


def load(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with `variables` put in, or its defaults."""
    text = _VARIABLE.sub(lambda found: variables.get(found["name"], found["default"]), FILE.read_text())
    assert "$" not in text, "a form of variable that this does not know"
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def variables() -> dict[str, str]:
    """Every variable of the file, with its default."""
    return {found["name"]: found["default"] for found in _VARIABLE.finditer(FILE.read_text())}


def ports(service: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Ports in the container to host address and port outside."""
    found = [_PORT.fullmatch(port) for port in service["ports"]]
    assert all(found)
    return {port["target"]: (port["host"], port["published"]) for port in found if port is not None}


@dataclass(frozen=True)
class Local:
    """The services where hosts are this machine, ports are those published, and targets of mounts are their sources."""

    document: Mapping[str, Any]

    def text(self, text: str, service: str) -> str:
        """Something of `service`, such as a word of its command."""
        for name, other in self.document["services"].items():
            for target, (host, published) in ports(other).items():
                text = text.replace(f"{name}:{target}", f"{host}:{published}")
        for target, (_, published) in ports(self.document["services"][service]).items():
            text = re.sub(rf"\b{target}\b", published, text)
        for mount in self.document["services"][service].get("volumes", ()):
            text = text.replace(mount["target"], mount["source"])
        return text.replace("0.0.0.0", "127.0.0.1")

    def command(self, service: str) -> list[str]:
        return [self.text(word, service) for word in self.document["services"][service]["command"]]

    def environment(self, service: str) -> dict[str, str]:
        told = self.document["services"][service].get("environment", {})
        return {name: self.text(value, service) for name, value in told.items()}


def commands_in(document: Path) -> list[list[str]]:
    """What a document tells people to type."""
    return [shlex.split(line[2:]) for line in document.read_text().splitlines() if line.startswith("$ ")]
