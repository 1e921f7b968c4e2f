"""What runs in the processes of a run: workers, producers, and the jobs they have."""
