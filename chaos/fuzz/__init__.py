"""Random schedules: drawn from a seed, run, judged as any scenario is, and made smaller when one does not pass."""
