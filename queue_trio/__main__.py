"""Where `queue-trio` and `python -m queue_trio` start. Imports so little that Ctrl-C is heard from the beginning."""

from __future__ import annotations

import os
import sys

_INTERRUPTED = 130


def run() -> None:
    """The console script."""
    try:
        import signal

        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        # While modules are imported there is nothing to clean up. An exception could end up in a callback of the
        # import system, which would print it and go on.
        if ours:
            signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
        from queue_trio.cli.main import run as run_command_line

        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run_command_line()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    run()
