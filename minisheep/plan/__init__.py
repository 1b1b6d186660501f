"""What a run will take before it begins: memory for each phase, disk and time, and settings with which it fits.

`dimensions.py` knows the model, `cards.py` the GPUs, `memory.py`, `disk.py` and `work.py` count,
`duration.py` divides work by rates, `fit.py` looks for settings, `table.py` shows. All but the two edges is pure.
"""
