"""What the GPU check measures, and on which sizes. Pure."""

from __future__ import annotations

from benchmarks.plan import FULL

DECODE, TRAIN = "decode", "train "
"""Names of a job's part; the trainer's name follows the second."""
SLOTS = (1, 8, 32, 64)
DECODE_SIZES = {"context": 512, "tokens": 128, "least": 8}
"""A turn has two sequences for each slot, but no fewer than `least`."""
TRAIN_SIZES = {**FULL["train"], "examples": 128}
REPEATS = 3
"""Turns of a decoding, of which the median counts."""
BENCHED = ("engine", "judge", "train")
"""The benchmark verbs that use a GPU."""
