"""Proves the promises of queue_trio under fault: drives real faults, journals outside Redis, and judges afterwards.

    cli        what is typed
    fuzz       schedules of faults drawn from a seed        mutants   bugs that a scenario must find
    playing    a scenario on its stage: steps, loads, who watches; and suites of them
    driving    Toxiproxy, Redis servers, processes          report    terminal, JSON, one page, tables
    judging    what a run comes to, from its history alone
    scenario   what a run is told to do                     scenarios the files that tell it
    actors     what runs in the processes of a run          testing   the same for other people's tests

Imports go from the top to the bottom; a test holds them to it.
"""
