"""Writes down every setting for people: docs/configuration.md and the commented queue-trio.example.yaml.

    python -m queue_trio.config.docs [FOLDER]

writes both, below FOLDER or the project's own; a test fails when they are not what this writes. All that it says about
a setting comes from `config.schema`.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any, Final

from queue_trio.config.schema import allowed, descriptions, field_of, plain, sections, variable

EXAMPLE_FILE: Final = Path("queue-trio.example.yaml")
DOCUMENT: Final = Path("docs/configuration.md")

_WIDTH: Final = 100

_EXAMPLE_HEAD: Final = """\
# Settings of queue_trio: every one, with its default. Made by `queue-trio config example`.
#
# Copy this to queue-trio.yaml and uncomment what you change; `queue-trio config check` tells every mistake at once.
# Durations are seconds, sizes are bytes. An environment variable wins over this file:
# QUEUE_TRIO_WORKER__CONCURRENCY=32 sets worker.concurrency.
#
# An editor with YAML support completes and checks this file if it knows its schema:
# `queue-trio config schema > queue-trio.schema.json`, and then as the first line of the file
# # yaml-language-server: $schema=queue-trio.schema.json
"""

_DOCUMENT_HEAD: Final = """\
# Configuration

<!-- Generated from queue_trio/core/settings.py by `python -m queue_trio.config.docs`: change it there. -->

Settings come from a YAML file and from environment variables. Every setting has a default, so neither is needed.

```console
queue-trio config check            # every mistake at once, then what is doubtful
queue-trio config show             # what is set, and where; with --all, every setting
queue-trio config example          # a commented file with all the defaults
queue-trio config schema           # JSON Schema, for your editor
```

## What wins

1. the command's own flags, such as `--concurrency 32`;
2. environment variables, such as `QUEUE_TRIO_WORKER__CONCURRENCY=32`;
3. the file: the one that `--config PATH` names, else the one that `QUEUE_TRIO_CONFIG` names, else `queue-trio.yaml`
   in the current folder if there is one; files are not combined;
4. the defaults below.

An app that was built with `App(settings=...)` keeps those in the place of 2 and 3, unless `--config` names a file.
Mappings (`worker.weights`, `producer.priorities`, `tracing.headers`) are combined entry by entry; lists are
replaced.

A name that does not exist is an error, in the file as in a variable, and so is one that is there twice: a setting
that is spelled wrong must not be ignored.

## Environment variables

`QUEUE_TRIO_`, the section, two underscores, the setting, all in capitals: `worker.lease` is
`QUEUE_TRIO_WORKER__LEASE`.

| for | write | example |
| --- | --- | --- |
| text, numbers | the value | `QUEUE_TRIO_REDIS__URL=redis://redis.internal:6379/0` |
| true or false | `true`, `false` | `QUEUE_TRIO_TRACING__ENABLED=true` |
| null | `null`, or nothing | `QUEUE_TRIO_HTTP__PORT=null` |
| a list | words with commas between them, or YAML | `QUEUE_TRIO_PRODUCER__INCLUDE='**/*.py, *.txt'` |
| a mapping | YAML | `QUEUE_TRIO_PRODUCER__PRIORITIES='{.py: high, .md: low}'` |
| one entry of a mapping | its name after two more underscores | `QUEUE_TRIO_WORKER__WEIGHTS__HIGH=9` |

A header for the tracing collector is one entry of a mapping. Shells allow no hyphen in a variable's name, so there
an underscore stands for one: `QUEUE_TRIO_TRACING__HEADERS__X_API_KEY=...` sends `x-api-key`.

An empty `QUEUE_TRIO_HTTP__TOKEN` is an error and not null: a secret that was not filled in must not open the door.

## Secrets

`redis.url`, `http.token` and `tracing.headers` are never shown: not in an error, not in a log, not in a traceback,
not by `config show`, which masks the password in the URL and the whole of the others. Write them into variables
rather than into a file that is kept with the code.

## Mistakes and doubts

`queue-trio config check` exits with 3 if anything is wrong, and every other command refuses to run: each mistake is
one line with the key, the file and line or the variable, the value, what is allowed, and what was probably meant.

What is valid but probably not meant is a doubt. `config check` shows them (with `--strict` they are errors) and a
worker logs them when it starts. They are about settings that undo each other:

- a lease so short that one failed renewal loses jobs: a renewal goes out at every third of `worker.lease`, and that
  third must outlast the longest way back to Redis, `redis.read_timeout + redis.backoff_cap + 1.5 ×
  redis.breaker_open_wait`; an enqueue that does not wait as long either (`client.timeout`);
- a `worker.sweep_interval` or `worker.stall_limit` of more than a third of the lease; an `http.stall_limit` below
  `worker.stall_limit`;
- `worker.threads` or `worker.processes` above `worker.concurrency`; `weights` or `looped_wait` with another
  strategy; `client.on_full: wait` without a `max_length`; `metrics.tasks` with more names than `metrics.max_tasks`;
  a producer that includes nothing;
- a `worker.shutdown_grace` below a second; a `tracing.shutdown_timeout` longer than the grace; fewer
  `redis.max_connections` than a worker uses; queue lengths that are read less than once a minute;
- an HTTP port that others than this machine can reach without a token, or with a short one; a Redis password that
  everybody tries first; `tls_verify: false`; tracing headers over plain http.

Some rules hold by construction and need no setting: a blocking command waits for its own time and then for
`redis.read_timeout`, so the read timeout is never shorter than the wait; renewals are three to a lease.

## Settings

Durations are seconds, sizes are bytes.
"""


def example() -> str:
    """The file with every setting as a comment: what it is for, what it may be, its default."""
    parts = [_EXAMPLE_HEAD]
    for section, model in sections().items():
        parts.append("\n" + _comment(descriptions().get((section,), ""), indent=""))
        parts.append(f"{section}:\n")
        for setting in model.model_fields:
            words = allowed((section, setting)) or ""
            parts.append(_comment(descriptions().get((section, setting), "")))
            parts.append(_comment(words[:1].upper() + words[1:] + "."))
            parts.append(f"  # {setting}: {yaml_text(_default(section, setting))}\n\n")
        parts[-1] = parts[-1].rstrip("\n") + "\n"
    return "".join(parts)


def document() -> str:
    """docs/configuration.md."""
    parts = [_DOCUMENT_HEAD]
    for section, model in sections().items():
        parts.append(f"\n### {section}\n\n{_cell(descriptions().get((section,), ''))}\n\n")
        parts.append(f"Variables: `{variable(section, '')}...`\n\n")
        parts.append("| setting | default | what it may be | what it is for |\n| --- | --- | --- | --- |\n")
        for setting in model.model_fields:
            default = yaml_text(_default(section, setting))
            cells = (
                f"`{setting}`",
                f"`{default}`",
                allowed((section, setting)) or "",
                descriptions().get((section, setting), ""),
            )
            parts.append(f"| {' | '.join(map(_cell, cells))} |\n")
    return "".join(parts)


def yaml_text(value: Any) -> str:
    """One value in one line of YAML: JSON, which is YAML too, but words that need no quotes have none."""
    if isinstance(value, str) and _is_plain(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _is_plain(text: str) -> bool:
    import yaml

    try:
        return text.isprintable() and "#" not in text and yaml.safe_load(f"[{text}]") == [text]
    except (yaml.YAMLError, ValueError):
        return False


def _default(section: str, setting: str) -> Any:
    field = field_of((section, setting))
    assert field is not None
    return plain(field.default)


def _comment(text: str, indent: str = "  ") -> str:
    lines = textwrap.wrap(text, _WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False)
    return "".join(f"{indent}# {line}\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def write_all(folder: Path) -> list[Path]:
    """Write both files below `folder`, and give their paths."""
    written = {EXAMPLE_FILE: example(), DOCUMENT: document()}
    for path, text in written.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, "utf-8")
    return [folder / path for path in written]


if __name__ == "__main__":
    project = Path(__file__).resolve().parents[2]
    for path in write_all(Path(sys.argv[1]) if len(sys.argv) > 1 else project):
        sys.stdout.write(f"{path}\n")
