"""What a scheduler asks of a decoder: operations on sequences, then one batch of tokens. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy the whole of sequence `source` to the empty sequence `target`."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Free:
    """Empty a sequence."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Row:
    """A row of logits that the batch yields: at which index of the batch, for which job and which of its tokens."""

    index: int
    key: int
    token: int


@dataclass(slots=True)
class Step:
    """Operations to apply in order, then one batch: parallel lists of token, position and sequence."""

    kind: str
    """``prefix``, ``prefill`` or ``decode``."""
    operations: list[Copy | Free]
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    """In ascending order of index."""
    completed: tuple[int, ...] = ()
    """Keys of the jobs without new tokens whose last row is in this batch."""

    def add(self, token: int, position: int, sequence: int) -> None:
        self.tokens.append(token)
        self.positions.append(position)
        self.sequences.append(sequence)
