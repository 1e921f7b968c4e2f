"""`python -m queue_trio`: the same as `queue-trio`."""

from __future__ import annotations

from queue_trio.cli.main import run

if __name__ == "__main__":
    run()
