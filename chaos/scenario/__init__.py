"""What a run is told to do, as data: scenarios, faults, and the files they are read from and written to."""
