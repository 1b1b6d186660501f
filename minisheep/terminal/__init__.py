"""The live screen of a run.

    follow.py   the run folder's events, as they come      machine.py            memory, temperature, power
    fold.py     state + event -> state; pure               draw*.py              state -> lines; pure
    keys.py     the terminal, and giving it back           live.py               the loop that joins them
    apart.py    a run in a process of its own              running.py            who works in a folder

A screen is always a reader of the run folder, be it that of the process that started the run or of any other.
"""
