"""The dimensions of a model, and what follows from them: its matrices, parameters and the adapter's. Pure.

Of the architectures that adapters can be made for, named as in GGUF (llama.cpp, src/models).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

EMBEDDING, OUTPUT = "token_embd", "output"


class Matrix(NamedTuple):
    """A weight with two dimensions. One output is computed from one row, and the blocks of a format divide a row."""

    name: str
    layer: int
    """-1 outside the layers."""
    rows: int
    columns: int

    @property
    def weights(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions that decide a model's memory. `context` is the tokens of a text in its training."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    tied: bool
    """Whether the output layer is the embedding."""

    @property
    def query_width(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        """Of the keys; the values have the same."""
        return self.kv_heads * self.head_size

    @property
    def layer_matrices(self) -> tuple[tuple[str, int, int], ...]:
        """Name, rows and columns of every layer's matrices; the adapter is put on the same ones."""
        wide, query, kv, inner = self.width, self.query_width, self.kv_width, self.feed_forward
        return (
            ("attn_q", query, wide),
            ("attn_k", kv, wide),
            ("attn_v", kv, wide),
            ("attn_output", wide, query),
            ("ffn_gate", inner, wide),
            ("ffn_up", inner, wide),
            ("ffn_down", wide, inner),
        )

    def matrices(self) -> Iterator[Matrix]:
        """All matrices of the model, the embedding once where it is tied."""
        yield Matrix(EMBEDDING, -1, self.vocabulary, self.width)
        for layer in range(self.layers):
            for name, rows, columns in self.layer_matrices:
                yield Matrix(name, layer, rows, columns)
        if not self.tied:
            yield Matrix(OUTPUT, -1, self.vocabulary, self.width)

    def vectors(self, architecture: str) -> int:
        """Weights of norms and biases, which no format makes smaller."""
        layer = 2 * self.width
        if architecture == "qwen2":
            layer += self.query_width + 2 * self.kv_width
        if has_head_norms(architecture):
            layer += 2 * self.head_size
        if has_post_norms(architecture):
            layer += 2 * self.width
        return self.layers * layer + self.width

    def parameters(self, architecture: str) -> int:
        """All weights, the embedding once where it is tied."""
        return sum(matrix.weights for matrix in self.matrices()) + self.vectors(architecture)

    @property
    def block_weights(self) -> int:
        """In the matrices of all layers: what a 4-bit format of training makes smaller."""
        return self.layers * sum(rows * columns for _, rows, columns in self.layer_matrices)

    @property
    def head_weights(self) -> int:
        return self.vocabulary * self.width

    def lora_weights(self, rank: int) -> int:
        """A [rank, columns] and B [rows, rank] on every matrix of every layer (paper, appendix E)."""
        return self.layers * rank * sum(rows + columns for _, rows, columns in self.layer_matrices)


def has_head_norms(architecture: str) -> bool:
    """Whether queries and keys are normed."""
    return architecture in ("qwen3", "gemma3")


def has_post_norms(architecture: str) -> bool:
    """Whether attention and feed-forward are normed behind as well as before."""
    return architecture == "gemma3"
