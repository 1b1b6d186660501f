"""The parts of a try, one child process each, as the workers of a run are. Pure."""

from __future__ import annotations

ASK, TRAIN = "ask", "train"
EXAMPLES = 64
"""Examples that training has at most: a few steps tell its speed."""
STEPS = 3
"""Steps of training; the first is not timed, since kernels are made and memory is taken then."""
PAIRS = 32
"""Texts whose likelihood is asked, for the speed of reading."""
