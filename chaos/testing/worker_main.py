"""The worker process of a test: `python -m chaos.testing.worker_main FOLDER [what chaos.actors.worker_main takes]`.

It is the worker of `chaos.actors.worker_main`, which says when it is ready and can be told where to die, run as a
user's project would run it: in its FOLDER, with its queue-trio.yaml. What handlers print goes to the log.
"""

from __future__ import annotations

import os
import sys

from chaos.actors import worker_main


def main() -> None:
    os.chdir(sys.argv.pop(1))
    sys.stdout = sys.stderr  # the other one is for reports
    worker_main.main()


if __name__ == "__main__":
    main()
