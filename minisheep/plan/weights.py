"""The weights of a GGUF as bytes, and where llama.cpp puts them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from minisheep.models.gguf_header import GgufHeader


@dataclass(frozen=True, slots=True)
class Weights:
    """All sizes in bytes."""

    format: str
    file: int
    tensors: int
    embedding: int
    tied: bool

    @property
    def on_gpu(self) -> int:
        """With all layers offloaded. The embedding stays in RAM, where rows of it are looked up; a tied one is copied
        to the GPU as the output layer (llama.cpp, load_tensors)."""
        return self.tensors if self.tied else self.tensors - self.embedding

    @property
    def read_a_step(self) -> int:
        """What computing one token reads of them: all but the embedding, and a tied one as the output layer."""
        return self.on_gpu


def weights_in(header: GgufHeader, format: str) -> Weights:
    """The weights of a file that is here."""
    sizes = {tensor.name: tensor.bytes for tensor in header.tensors}
    embedding = sizes.get("token_embd.weight", 0)
    return Weights(format, header.file_bytes, sum(sizes.values()), embedding, "output.weight" not in sizes)
