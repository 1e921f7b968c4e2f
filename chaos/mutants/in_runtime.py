"""Mutants of what knows no Redis: the runtime's parts, and the arithmetic of waiting."""

from __future__ import annotations

from typing import Final

from chaos.mutants.mutant import Edit, Mutant

IN_RUNTIME: Final = (
    Mutant(
        name="dropped-record",
        broken="a record that cannot be decoded is skipped, and its job settled as done",
        promise="N",
        signs=("N: ", "S: ", "dead: "),
        edits=(
            Edit(
                "runtime/executor.py",
                old='        except UndecodableRecord as error:\n            return self._dead(running, "?", error)\n',
                new="        except UndecodableRecord as error:\n"
                '            log.warning("job.skipped", job=running.job.id, error=str(error))\n'
                "            return Outcome(running.job.id, running.job.token)\n",
            ),
        ),
    ),
    Mutant(
        name="no-renewal-in-drain",
        broken="the renewer stops as soon as the worker drains",
        promise="D",
        signs=("D: ", "duplicated: ", "reclaimed: "),
        edits=(
            Edit(
                "runtime/worker.py",
                old="        self.fetcher.stop(self._finish_s)\n",
                new="        self.fetcher.stop(self._finish_s)\n        self._renewer.draining = True\n",
            ),
            Edit(
                "runtime/renewer.py",
                old="        self._calling = trio.Lock()\n",
                new="        self._calling = trio.Lock()\n        self.draining = False\n",
            ),
            Edit("runtime/renewer.py", old="        while True:\n", new="        while not self.draining:\n"),
        ),
    ),
    Mutant(
        name="uncapped-backoff",
        broken="the wait before the next try has no cap",
        promise="",
        signs=("first success of ", "S: "),
        edits=(
            Edit(
                "core/backoff.py",
                old="            return min(self.cap, self.base * self.factor**attempt)\n",
                new="            return self.base * self.factor**attempt\n",
            ),
        ),
    ),
)
