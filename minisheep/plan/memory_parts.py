"""The parts of memory in inference and in training, in bytes, also for a GGUF that is not here. Pure.

Inference is llama.cpp's: weights, KV cache, compute buffers (`engines.budget` decides the slots, here as in the
engine). Training is `trainers.peft`: a frozen base, the adapter with its gradients and AdamW's moments in float32,
what autograd keeps, and logits a piece at a time (`trainers.lora_model.HEAD_ELEMENTS`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from minisheep.engines import budget
from minisheep.formats.gguf_header import BLOCKS, Block, GgufHeader, mostly_fast_on_cpu
from minisheep.models.shape import EMBEDDING, OUTPUT, Matrix, Shape, has_head_norms, has_post_norms


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a GGUF; all sizes are bytes."""

    format: str
    file: int
    tensors: int
    embedding: int
    tied: bool

    @property
    def on_gpu(self) -> int:
        """With all layers offloaded; also what one decode step reads. The embedding stays in RAM, where its rows are
        looked up; a tied one is copied to the GPU as the output layer (llama.cpp, load_tensors)."""
        return self.tensors if self.tied else self.tensors - self.embedding


def weights_in(header: GgufHeader, format: str) -> Weights:
    sizes = {tensor.name: tensor.bytes for tensor in header.tensors}
    embedding = sizes.get("token_embd.weight", 0)
    return Weights(format, header.file_bytes, sum(sizes.values()), embedding, "output.weight" not in sizes)


CUDA_CONTEXT = 450 * 2**20
"""What a process holds on a GPU before its first tensor: CUDA's context, kernels and workspaces. Not measured here."""
INFERENCE_LIBRARIES = 150 * 2**20
"""RAM of a worker with llama.cpp and numpy, before it has a model."""
TRAINING_LIBRARIES = 430 * 2**20
"""RAM of a worker with torch, transformers and peft, before it has a model."""
CUDA_LIBRARIES = 2500 * 2**20
"""RAM of such a worker once torch has CUDA's libraries too. Not measured here."""

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in NF4 with double quantisation: 4 bits, an 8-bit scale for 64 weights, a float32 for 256 scales."""
LORA_BYTES = 16
"""A weight of the adapter: itself, its gradient and AdamW's two moments, all float32."""
HEAD_BYTES = 2**24 * 12
"""Logits in memory at once: `HEAD_ELEMENTS` of them, twice in the model's precision and twice in float32."""
SLACK = 1.1
"""Factor by which torch's allocator exceeds what temporary tensors need."""


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Inference:
    """How a model is used for inference. `context` is the setting, in tokens."""

    slots: int
    context: int
    cache: budget.CacheType
    embeds: bool = False
    """Whether a phase computes embeddings, in a context of its own."""
    rank: int = 0
    """Of the adapter on top; 0: none."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """How an adapter is trained. `tokens` is the size of the longest micro-batch."""

    load_in: str
    cuda: bool
    float32: bool
    """Whether training computes in float32."""
    rank: int
    micro_batch: int
    length: int

    @property
    def tokens(self) -> int:
        return self.micro_batch * self.length


def total(parts: list[Part]) -> int:
    return sum(part.bytes for part in parts)


def token_bytes(shape: Shape, cache: budget.CacheType) -> int:
    return budget.kv_token_bytes(shape.layers, shape.kv_heads, shape.head_size, shape.head_size, cache)


def sequence_bytes(shape: Shape, context: int, cache: budget.CacheType) -> int:
    return budget.sequence_tokens(context, shape.context) * token_bytes(shape, cache)


def inference_parts(shape: Shape, weights: Weights, how: Inference, *, gpu: bool) -> list[Part]:
    """On a GPU, or in the RAM of a machine without one."""
    first = Part("CUDA context", CUDA_CONTEXT) if gpu else Part("libraries", INFERENCE_LIBRARIES)
    held = weights.on_gpu if gpu else weights.tensors
    cells = (how.slots + 1) * sequence_bytes(shape, how.context, how.cache)
    beside = {"compute buffers": budget.compute_bytes(shape, how.slots, how.context) + host_bytes(shape, how.slots)}
    if gpu:
        beside = budget.beside_cache(shape, how.slots, how.context, how.cache, how.rank)
    if how.embeds:
        cells += sequence_bytes(shape, how.context, how.cache)
        beside["compute buffers"] += budget.compute_bytes(shape, 1, how.context)
    parts = [Part(name, size) for name, size in beside.items()]
    return [first, Part("weights", held), Part("KV cache", cells), *parts]


def host_bytes(shape: Shape, slots: int) -> int:
    """RAM for the logits of one token of each sequence (llama.cpp, output_reserve)."""
    return (slots + 1) * shape.vocabulary * 4


def training_parts(shape: Shape, architecture: str, how: TrainingMemory) -> list[Part]:
    """Peak of training, with a micro-batch of the longest examples."""
    number = 4 if how.float32 else 2
    frozen = number * (shape.parameters(architecture) - shape.block_weights)
    blocks = shape.block_weights * (NF4_BYTES if how.load_in == "4bit" else number)
    kept = how.tokens * kept_bytes(shape, architecture, how)
    # The backward pass of a layer's widest part: for each token, float32 twice and the model's format twice.
    passing = how.tokens * 12 * max(shape.feed_forward, shape.query_width)
    if how.load_in == "4bit":  # one matrix at a time is dequantised
        passing += number * max(rows * columns for _, rows, columns in shape.layer_matrices)
    if how.cuda:
        between, layer = how.tokens * shape.layers * shape.width * number, kept + passing
        first = Part("CUDA context", CUDA_CONTEXT)
    else:
        between, layer = shape.layers * kept, passing
        first = Part("libraries", TRAINING_LIBRARIES)
    return [
        first,
        Part("base: layers", int(blocks)),
        Part("base: embedding, output, norms", frozen),
        Part("adapter, gradients, AdamW", shape.lora_weights(how.rank) * LORA_BYTES),
        Part("activations kept", int(SLACK * between)),
        Part("one layer or the logits", int(SLACK * max(layer, HEAD_BYTES))),
    ]


def kept_bytes(shape: Shape, architecture: str, how: TrainingMemory) -> int:
    """What autograd keeps of one layer for each token."""
    if not how.cuda and how.load_in != "4bit":
        return _kept_by_cpu_layers(shape, how)
    return _kept_by_libraries(shape, architecture, how)


def _kept_by_libraries(shape: Shape, architecture: str, how: TrainingMemory) -> int:
    """By the layers of transformers and peft: norms and adapters in float32, the rest in the model's format.

    An adapter keeps its input after dropout, and the mask: bool on a GPU, float32 on a CPU. On a GPU, keys and values
    are repeated for their query heads where a mask says what is padding.
    """
    wide, query, kv, inner = shape.width, shape.query_width, shape.kv_width, shape.feed_forward
    number, mask = (4 if how.float32 else 2), (1 if how.cuda else 4)
    norms = 4 * wide * (4 if has_post_norms(architecture) else 2)
    norms += 4 * (query + kv) if has_head_norms(architecture) else 0
    adapter = (4 + mask) * (5 * wide + query + inner) + 7 * 4 * how.rank
    attention = number * 2 * (query + (query if how.cuda else kv)) + 4 * shape.heads
    return norms + adapter + attention + number * 3 * inner


def _kept_by_cpu_layers(shape: Shape, how: TrainingMemory) -> int:
    """By `trainers.cpu_lora`: adapters that read the same share one mask, and attention keeps its probabilities."""
    wide, query, kv, inner = shape.width, shape.query_width, shape.kv_width, shape.feed_forward
    number = 4 if how.float32 else 2
    adapter = (number + 1) * (2 * wide + query + inner) + number * 7 * how.rank
    attention = number * (query + 2 * kv + shape.heads * how.length)
    return adapter + number * 2 * wide + attention + number * 2 * inner


# The size of a GGUF in a named format, without the file. A mix such as Q4_K_M is not one format: llama-quantize gives
# some matrices more bits, and others the nearest format whose blocks divide their rows (llama.cpp,
# src/llama-quant.cpp: llama_tensor_get_type_impl, use_more_bits, tensor_type_fallback).
_FORMATS = {block.name: block for block in BLOCKS.values()}
_MIXES = {"Q4_K_M": ("Q4_K", "Q6_K"), "Q5_K_M": ("Q5_K", "Q6_K")}
"""The format of most matrices of a mix, and the format with more bits."""
_NEAREST = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
FORMATS = (*_MIXES, "Q4_0", "Q4_1", "Q6_K", "Q8_0", "BF16", "F16", "F32")
"""Formats whose size can be computed."""
HEADER_BYTES_A_TOKEN = 40
"""Of the vocabulary, its merges included: 36 and 39 in files of SmolLM2 and Qwen2."""


def weights_as(shape: Shape, architecture: str, format: str) -> Weights:
    """The weights in one of `FORMATS`. Raises KeyError for another."""
    sizes = {EMBEDDING: 0, OUTPUT: 0}
    tensors = 4 * shape.vectors(architecture)
    for matrix in shape.matrices():
        block = _format(matrix, shape, format)
        size = matrix.weights // block.elements * block.bytes
        tensors += size
        if matrix.name in sizes:
            sizes[matrix.name] = size
    file = tensors + HEADER_BYTES_A_TOKEN * shape.vocabulary
    return Weights(format, file, tensors, sizes[EMBEDDING], shape.tied)


def fast_on_cpu(shape: Shape, format: str) -> bool:
    """Whether a processor is fast with a file in one of `FORMATS`. Raises KeyError for another."""
    weights: Counter[str] = Counter()
    for matrix in shape.matrices():
        weights[_format(matrix, shape, format).name] += matrix.weights
    return mostly_fast_on_cpu(weights)


def format_in_name(file: str) -> str | None:
    """The format at the end of a file's name; None where it is not one of `FORMATS`."""
    name = file.upper().removesuffix(".GGUF")
    return next((known for known in FORMATS if name.endswith(known)), None)


def uses_more_bits(layer: int, layers: int) -> bool:
    """In a mix: the first and last eighth of the layers, and every third between (use_more_bits)."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _format(matrix: Matrix, shape: Shape, format: str) -> Block:
    usual, more = _MIXES.get(format, (format, format))
    final = matrix.name == OUTPUT or (shape.tied and matrix.name == EMBEDDING)
    favoured = matrix.name in ("attn_v", "ffn_down") and uses_more_bits(matrix.layer, shape.layers)
    if final and format.startswith("Q") and format != "Q8_0":
        more = "Q6_K"  # the output layer of any quantised model
    chosen = more if final or favoured else usual
    if matrix.columns % _FORMATS[chosen].elements:
        chosen = _NEAREST.get(chosen, "F16")
    return _FORMATS[chosen]
