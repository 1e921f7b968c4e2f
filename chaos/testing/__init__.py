"""What the fixtures of `chaos.pytest_plugin` give to tests, here to be named in annotations.

Every method is a plain function, so that any test can call it: see `driver`. docs/chaos-in-your-tests.md shows how.
"""

from chaos.testing.private_redis import PrivateRedis
from chaos.testing.proxies import ChaosProxy, Fault, Toxiproxy
from chaos.testing.workers import StartWorker, WorkerProcess

__all__ = ["ChaosProxy", "Fault", "PrivateRedis", "StartWorker", "Toxiproxy", "WorkerProcess"]
