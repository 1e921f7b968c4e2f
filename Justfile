# Recipes for people and for CI. `./dev RECIPE` prepares .venv first; plain `just RECIPE` works once it is there.

set positional-arguments

export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

[private]
default:
    @just --justfile {{ quote(justfile()) }} --list --unsorted

# Show the queue at work on this machine, no server needed (`--help` tells the options)
[no-cd, no-exit-message]
demo *ARGS:
    @queue-trio demo "$@"

# Run every test, at least 90 % branch coverage; with ARGS, whatever they select, no coverage
[no-exit-message]
test *ARGS:
    @if [ "$#" -eq 0 ]; then set -- --cov --numprocesses auto --maxprocesses 6 --dist worksteal; fi; exec pytest "$@"

# Style, types and the direction of imports
[no-exit-message]
check:
    ruff check
    ruff format --check
    mypy
    lint-imports

# Repair what can be repaired by machine
fmt:
    ruff check --fix-only
    ruff format

# Recompile requirements/*.txt from pyproject.toml; pins stay, unless `--upgrade`
lock *ARGS:
    @just --justfile {{ quote(justfile()) }} _compile requirements/runtime.txt "$@"
    @just --justfile {{ quote(justfile()) }} _compile requirements/dev.txt --group dev --all-extras "$@"

# One file for every platform, with hashes, and without a word about where the packages came from.
[private]
_compile FILE *ARGS:
    uv pip compile pyproject.toml --quiet --universal --generate-hashes --no-strip-extras --output-file "$@" --no-header
    @! grep -nE '://|^--?[a-z]' "$1"

# Write again what is generated: docs/configuration.md and metrics.md, the example settings, the dashboard
docs:
    python -m queue_trio.config.docs
    python -m queue_trio.ops.metrics_docs
    python -m deploy.grafana.dashboard

# Prove the promises under fault: the short suite, which `test` runs too
[no-exit-message]
chaos *ARGS:
    @python -m chaos suite smoke "$@"

# Prove them in every scenario, with three seeds each
[no-exit-message]
chaos-full *ARGS:
    @python -m chaos suite full --seeds 3 "$@"

# Measure queue_trio on this machine
[no-exit-message]
bench-self *ARGS:
    @python -m bench.self "$@"

# Fail if queue_trio is less than half as fast as stored, by this machine's own speed; `--update` stores it anew
[no-exit-message]
perf-smoke *ARGS:
    @python -m bench.smoke "$@"

# Install the queues that are measured beside ours, each in its own environment in .tools/bench, as pinned
[no-exit-message]
bench-setup *ARGS:
    @python -m bench.setup "$@"

# Measure queue_trio and other queues side by side, in turn (`--help` tells the options)
[no-exit-message]
bench *ARGS:
    @python -m bench "$@"

# Measure what tracing at 1 % costs
[no-exit-message]
bench-tracing *ARGS:
    @python -m bench.tracing "$@"

# Measure how queue_trio scales: depth, concurrency, processes, what fills Redis; `soak` if asked for
[no-exit-message]
bench-scale *ARGS:
    @python -m bench.scale "$@"

# Remove caches, coverage data and build products; .venv stays
clean:
    rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* coverage.xml htmlcov dist build
    find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
