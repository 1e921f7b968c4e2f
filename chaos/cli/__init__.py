"""`python -m chaos`: one module for each command, which it brings by `register`."""
