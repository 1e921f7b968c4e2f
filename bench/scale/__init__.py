"""How queue_trio scales: `just bench-scale`. See __main__.py."""
