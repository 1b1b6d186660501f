"""What is measured, on which sizes. Pure."""

from __future__ import annotations

from benchmarks.plan import FULL

DECODE, TRAIN = "decode", "train "
"""The part of a job; a training's is followed by the name of its trainer."""
SLOTS = (1, 8, 32, 64)
DECODE_SIZES = {"context": 512, "tokens": 128, "least": 8}
"""`least`: sequences in a turn, however few of them run at once; otherwise it has two for each slot."""
TRAIN_SIZES = {**FULL["train"], "examples": 128}
REPEATS = 3
"""Turns of a decoding, of which the median counts."""
BENCHED = ("engine", "judge", "train")
"""The verbs of the bench that use a GPU."""
