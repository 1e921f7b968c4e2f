"""Finding `module:app`: what is accepted, and one line with the remedy for each way it fails."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from queue_trio.cli.state import with_flags
from queue_trio.core.settings import Settings
from queue_trio.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Invoke

UNREACHED = 5
"""The exit code of an enqueue that got as far as Redis, which is not there."""


@pytest.mark.parametrize("target", ["tasks:app", "tasks", "tasks:"])
def test_the_name_app_may_be_left_out(invoke: Invoke, target: str) -> None:
    assert invoke("enqueue", target, "fail", "reason=x").code == UNREACHED


def test_a_dotted_module_and_a_dotted_name(invoke: Invoke, project: Path) -> None:
    (project / "shop").mkdir()
    (project / "shop" / "__init__.py").write_text("")
    (project / "shop" / "work.py").write_text("import tasks\nclass Holder:\n    queue = tasks.app\n")
    assert invoke("enqueue", "shop.work:Holder.queue", "fail", "reason=x").code == UNREACHED


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("tasks.py", "name the module, not its file: tasks:app"),
        ("./shop/tasks.py", "name the module, not its file: shop.tasks:app"),
        ("not a module", "such as myproject.tasks:app"),
        ("", "such as myproject.tasks:app"),
        ("tsks", "did you mean tasks?"),
        ("nothing.like.it", "install the project"),
        ("tasks:ap", "has no 'ap': did you mean tasks:app?"),
        ("tasks:Path", "is of type type, not an App: did you mean tasks:app?"),
        ("none:app", "none holds no App"),
        ("none:thing", "none:thing is None, not an App"),
        ("empty", "empty:app has no tasks: declare some with @app.task"),
        ("two:x", "did you mean two:first (or second)?"),
        ("syntax", "SyntaxError: '(' was never closed (syntax.py:1)"),
        ("exits", "SystemExit: 3 (exits.py:1)"),
        ("needs", "No module named 'surely_not_there' (needs.py:1): install it or correct the name"),
        ("declares", "a delay"),
        ("silent", "fails on import: RuntimeError (silent.py:1)"),
        ("deep", "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (deep.py:2)"),
    ],
)
def test_what_cannot_be_loaded(invoke: Invoke, project: Path, target: str, words: str) -> None:
    modules = {
        "none": "thing = None",
        "empty": "from queue_trio import App\napp = App('empty')",
        "two": "from queue_trio import App\nfirst, second = App('first'), App('second')",
        "syntax": "x = (",
        "exits": "raise SystemExit(3)",
        "needs": "import surely_not_there",
        "declares": "raise ValueError('a delay\\nover two lines')",
        "silent": "raise RuntimeError",
        "deep": "import json\njson.loads('')",
    }
    for name, text in modules.items():
        (project / f"{name}.py").write_text(text + "\n")
    ended = invoke("enqueue", target, "task")
    assert ended.code == 4
    assert words in ended.error


def test_a_task_that_is_declared_wrongly(invoke: Invoke, project: Path) -> None:
    (project / "wrong.py").write_text(
        "from queue_trio import App\napp = App('a')\n@app.task(priority='urgent')\ndef f() -> None: ...\n"
    )
    ended = invoke("worker", "wrong")
    assert ended.code == 4
    assert "priority='urgent': choose one of critical, high, normal, low (wrong.py:3)" in ended.error


def test_settings_that_the_module_itself_asks_for(invoke: Invoke, project: Path) -> None:
    """They are the same as those of the command, and what is wrong with them is an error of the settings."""
    (project / "eager.py").write_text(
        "import tasks\napp = tasks.app\nassert app.settings.worker.threads == 3\n"
    )
    (project / "good.yaml").write_text("worker: {threads: 3}\n")
    assert invoke("enqueue", "eager", "fail", "reason=x", "--config=good.yaml").code == UNREACHED


def test_wrong_settings_that_the_module_asks_for(invoke: Invoke, project: Path) -> None:
    (project / "eager.py").write_text("import tasks\napp = tasks.app\napp.settings\n")
    (project / "bad.yaml").write_text("worker: {threads: x}\n")
    assert invoke("enqueue", "eager", "fail", "reason=x", "--config", "bad.yaml").code == 3


def test_the_current_folder_is_importable(
    invoke: Invoke, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(project))])
    assert invoke("enqueue", "tasks", "fail", "reason=x").code == UNREACHED
    assert sys.path[0] == str(project)


# --- whose settings count ------------------------------------------------------------------------------------------


OWN_SETTINGS = """\
import tasks
from queue_trio import App, Settings
from queue_trio.core.settings import ClientSettings, RedisSettings
app = App("own", settings=Settings(redis=RedisSettings(url="redis://127.0.0.1:2/0")))
app.task(tasks.fail.function)
"""


def test_an_app_keeps_the_settings_it_was_built_with(invoke: Invoke, project: Path) -> None:
    (project / "own.py").write_text(OWN_SETTINGS)
    ended = invoke("enqueue", "own", "fail", "reason=x")
    assert "redis://127.0.0.1:2/0" in ended.error
    (project / "mine.yaml").write_text("redis: {url: 'redis://127.0.0.1:3/0'}\n")
    del_env = invoke("--config", "mine.yaml", "enqueue", "own", "fail", "reason=x")
    assert "redis://127.0.0.1:1/0" in del_env.error  # the environment wins over the file, as always


def test_what_is_wrong_inside_a_flag_is_told_with_its_name() -> None:
    with pytest.raises(ConfigError, match=r"^--priority \.py: is 'urgent', should be 'critical', "):
        with_flags(Settings(), {"producer.priorities": {".py": "urgent"}})


def test_flags_win_over_everything() -> None:
    base = Settings.model_validate(
        {"worker": {"lease": 40, "threads": 4}, "redis": {"url": "redis://u:pw@h/0"}}
    )
    changed = with_flags(base, {"worker.lease": 50.0, "worker.threads": None, "log.format": "json"})
    assert (changed.worker.lease, changed.worker.threads, changed.log.format) == (50.0, 4, "json")
    assert changed.redis.url.get_secret_value() == "redis://u:pw@h/0"
    assert with_flags(base, {"worker.threads": None}) is base
