"""Proves the promises of queue_trio under fault: drives real faults, journals outside Redis, and judges afterwards."""
