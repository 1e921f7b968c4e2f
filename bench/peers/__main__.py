"""Run one adapter in one role, as the driver ordered: `python -m bench.peers MODULE work|enqueue ORDER`.

MODULE is a file of this folder, ORDER the JSON of a `harness.Order`. The adapter's own environment runs this.
"""

from __future__ import annotations

import importlib
import json
import sys

from bench.peers.harness import Order, serve


def main() -> None:
    module, role, order = sys.argv[1:]
    adapter = importlib.import_module(f"bench.peers.{module}")
    serve(Order(**json.loads(order)), adapter.work if role == "work" else adapter.enqueue)


if __name__ == "__main__":
    main()
