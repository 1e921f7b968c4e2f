"""How a scenario is played: the stage, its steps, its loads, who watches, and the suites."""
