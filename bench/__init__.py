"""Benchmarks. Never part of the test suite: they measure, they do not judge."""
