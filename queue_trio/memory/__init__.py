"""The whole store in memory: the readable model of the queue, for unit tests, examples and simulation."""
