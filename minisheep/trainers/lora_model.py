"""The base model in memory, as training needs it: device, number format, adapted layers, and its loss.

Imports transformers and peft first, since the Hub must be off line before.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft import PeftModel as PeftModel

from minisheep.errors import MinisheepError, ModelFileError
from minisheep.formats.lora_gguf import PROJECTIONS
from minisheep.machine import cpu
from minisheep.rules.identity import derive_seed
from minisheep.rules.plain_text import one_line
from minisheep.trainers.base import TokenPair, TrainSettings, settle
from minisheep.trainers.checkpoint import Array
from minisheep.trainers.cpu_lora import can_pack, patch_for_cpu

# Read when the libraries are imported: training never touches the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# bitsandbytes, which peft imports, warns each time that a kernel of the Hub is missing, which is never used here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Precision:
    """In which format the base is held (`load_in`) and computed."""

    load_in: str
    dtype: torch.dtype
    device: torch.device
    note: str = ""
    """For the user, where it is not the setting."""


def choose_precision(load_in: str, *, cuda: bool, fast_bf16: bool, architecture: str = "") -> Precision:
    """The precision for `TrainSettings.load_in`. Raises `errors.ConfigError` for an unknown value."""
    settled, float32 = settle(load_in, cuda=cuda, fast_bf16=fast_bf16, architecture=architecture)
    where = "GPU" if cuda else "processor"
    missed = not fast_bf16 and (settled in ("4bit", "bf16") or load_in == "bf16")
    instead = "float32" if float32 else "float16, with the loss scaled"
    note = f"This {where} has no fast bfloat16: training computes in {instead}." if missed else ""
    dtype = torch.float32 if float32 else torch.bfloat16 if fast_bf16 else torch.float16
    return Precision(settled, dtype, torch.device("cuda" if cuda else "cpu"), note)


def this_machine(load_in: str, *, needs_gpu: bool = False, architecture: str = "") -> Precision:
    """`choose_precision` for this machine.

    Raises `errors.MinisheepError` where it `needs_gpu` and torch, asked itself, cannot use one: after a suspend or a
    driver's update, for instance, what the version numbers say is no longer so.
    """
    cuda = torch.cuda.is_available()
    if needs_gpu and not cuda:
        raise MinisheepError(
            f"PyTorch cannot use the GPU ({_cuda_fault()}), and on the processor training takes many times as long, so"
            " nothing was trained. Everything recorded before is safe.",
            "Restart the machine if its driver was just updated, or see `minisheep doctor`; then give the same command"
            " again. --trainer peft trains on the processor.",
        )
    if cuda:
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = cpu.multiplies_bfloat16(cpu.flags(cpu.cpuinfo()))
    return choose_precision(load_in, cuda=cuda, fast_bf16=fast, architecture=architecture)


def _cuda_fault() -> str:
    """Why torch has no CUDA, in its own words."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError) as error:  # a build without CUDA asserts
        return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return "it sees none"


def load_base(weights: Path, precision: Precision) -> Any:
    """The frozen base model of a folder with config.json and safetensors, on its device, in training mode.

    Raises `errors.ModelFileError` where the folder holds no such model.
    """
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    options: dict[str, Any] = {}
    if precision.load_in == "4bit":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision.dtype,
        )
    if not (weights / "config.json").is_file():
        raise ModelFileError(f"{weights} has no training weights (config.json).", "Fetch the model again.")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            weights,
            dtype=precision.dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,  # or it asks whether to run the code in the folder
            use_safetensors=True,
            device_map={"": str(precision.device)},
            **options,
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # transformers raises whatever a folder of strangers leads to
        raise ModelFileError(
            one_line(f"The training weights in {weights} cannot be loaded: {type(error).__name__}: {error}", 300),
            "Fetch the model's files again, or give another folder with --weights.",
        ) from error
    model.requires_grad_(False)
    model.config.use_cache = False
    if precision.load_in == "4bit":
        disable_cpu_packing(model)
    if precision.device.type == "cuda":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def check_loads(job: Mapping[str, Any], emit: object, should_stop: object) -> None:
    """In a worker: load the folder ``weights`` as training will, but for the numbers. Raises as `load_base`."""
    load_base(Path(job["weights"]), Precision("bf16", torch.bfloat16, torch.device("meta")))


def disable_cpu_packing(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights in place.

    On processors with AVX512-BF16, `Linear4bit.forward` (bitsandbytes 0.50.2) repacks a weight at the first evaluation
    and never back; all later training steps then compute with scrambled weights and no error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def add_lora(model: Any, settings: TrainSettings, name: str) -> PeftModel:
    """`model` with a LoRA on all linear layers of its blocks (paper, appendix E); A random by the seed, B zero.

    The adapter's configuration calls its base `name`: never a path of this machine.
    """
    sees_images = any("vision_tower" in module for module, _ in model.named_modules())
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.rslora,
        target_modules=list(PROJECTIONS),
        exclude_modules=r".*vision_tower.*" if sees_images else None,
        bias="none",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(derive_seed(settings.seed, "lora"))
    with warnings.catch_warnings():
        # peft 0.21 uses the old name of the property in transformers 5.23.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = name
    patch_for_cpu(adapted)
    return adapted


def adapter_tensors(model: PeftModel) -> dict[str, Array]:
    """The adapter as PEFT saves it: A [r, in] and B [out, r] of each layer, float32."""
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in found.items()}


def set_adapter_tensors(model: PeftModel, tensors: Mapping[str, Array]) -> None:
    """Give the adapter the values of `tensors`, which have the names and shapes of `adapter_tensors`."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.from_numpy(tensors[name.replace(".default.", ".")]))


HEAD_ELEMENTS = 2**24
"""Logits that exist at once: 64 MB in float32. Those of a whole batch would be gigabytes with a vocabulary of 262k."""
PADDING_FREE = "_minisheep_padding_free"
"""An attribute of models whose attention keeps sequences of one row apart by `packed_seq_lengths` (Unsloth,
unsloth/utils/packing.py) or, where it is transformers' own, by positions that begin again at 0."""


def loss_sum(model: Any, pairs: Sequence[TokenPair], device: torch.device) -> torch.Tensor:
    """Summed negative log-likelihood, in nats, of the supervised tokens of one micro-batch; a scalar in float32.

    On a processor, and in a model that Unsloth made, the sequences lie in one row, each seeing itself alone; elsewhere
    they are padded on the right, where a causal model cannot see. The output layer, in a small model most of the work
    and in any model most of the memory, runs only at positions that predict a supervised token.
    """
    total: torch.Tensor = HeadLoss.apply(*_predictions(model, pairs, device))  # type: ignore[no-untyped-call]
    return total


def sequence_losses(model: Any, pairs: Sequence[TokenPair], device: torch.device) -> torch.Tensor:
    """As `loss_sum`, of each sequence by itself; [pairs] in float32."""
    lengths = [pair.supervised for pair in pairs]
    losses: torch.Tensor = HeadLoss.apply(*_predictions(model, pairs, device), lengths)  # type: ignore[no-untyped-call]
    return losses


def _predictions(
    model: Any, pairs: Sequence[TokenPair], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states [supervised tokens, width], the output layer's weights, and the tokens to be predicted."""
    in_a_row = can_pack(model) or getattr(model, PADDING_FREE, False)
    hidden = (_in_a_row if in_a_row else _padded)(model, pairs, device)
    targets = torch.tensor([token for pair in pairs for token in pair.ids[pair.first :]], device=hidden.device)
    return hidden, model.get_output_embeddings().weight, targets


def _in_a_row(model: Any, pairs: Sequence[TokenPair], device: torch.device) -> torch.Tensor:
    """Hidden states [supervised tokens, width] at the positions that predict one; likewise `_padded`."""
    bounds: list[int] = [0]
    """Where sequences begin, with the number of tokens at the end."""
    kept: list[int] = []
    for pair in pairs:
        kept += range(bounds[-1] + pair.first - 1, bounds[-1] + len(pair.ids) - 1)
        bounds.append(bounds[-1] + len(pair.ids))
    borders: dict[str, Any] = {"bounds": tuple(bounds)}
    if not can_pack(model):
        lengths = torch.tensor([len(pair.ids) for pair in pairs], dtype=torch.int32)
        borders = {"packed_seq_lengths": lengths.to(device)}
    hidden: torch.Tensor = _body(model)(
        input_ids=torch.tensor([[token for pair in pairs for token in pair.ids]]).to(device),
        position_ids=torch.cat([torch.arange(len(pair.ids)) for pair in pairs])[None].to(device),
        use_cache=False,
        **borders,
    ).last_hidden_state
    return hidden[0, torch.tensor(kept).to(device)]


def _padded(model: Any, pairs: Sequence[TokenPair], device: torch.device) -> torch.Tensor:
    width = max(len(pair.ids) for pair in pairs)
    ids = torch.zeros(len(pairs), width, dtype=torch.long)
    mask = torch.zeros(len(pairs), width, dtype=torch.long)
    kept = torch.zeros(len(pairs), width, dtype=torch.bool)
    for row, pair in enumerate(pairs):
        length = len(pair.ids)
        ids[row, :length] = torch.tensor(pair.ids)
        mask[row, :length] = 1
        kept[row, pair.first - 1 : length - 1] = True
    hidden: torch.Tensor = _body(model)(
        input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
    ).last_hidden_state
    return hidden[kept.to(device)]


def _body(model: Any) -> Any:
    """The model without its output layer."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whole.model


class HeadLoss(torch.autograd.Function):
    """Output layer and cross-entropy in pieces, the gradient made on the way: logits are computed once, never kept."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, lengths: Sequence[int] | None = None
    ) -> torch.Tensor:
        """`hidden` [tokens, width], `head` [vocabulary, width] (frozen), `targets` [tokens]; out is the sum, or with
        `lengths` (tokens of each sequence) one sum a sequence."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        each: list[torch.Tensor] = []
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        step = max(1, HEAD_ELEMENTS // head.shape[0])
        for begin in range(0, len(targets), step):
            rows, target = hidden[begin : begin + step], targets[begin : begin + step, None]
            logits = torch.nn.functional.linear(rows.to(head.dtype), head).float()
            high = logits.amax(dim=-1)
            wanted = logits.gather(1, target)[:, 0]
            p = torch.softmax(logits, dim=-1)
            # log(sum(exp(x))) = max(x) - log(max(p)), exact where the wanted token's own p has underflowed.
            losses = high - p.amax(dim=-1).log() - wanted
            total += losses.sum()
            each.append(losses)
            if gradient is not None:
                p.scatter_add_(1, target, torch.full_like(wanted, -1)[:, None])
                gradient[begin : begin + step] = p.to(head.dtype) @ head
        ctx.save_for_backward(gradient)
        ctx.lengths = lengths
        if lengths is None:
            return total
        return torch.stack([part.sum() for part in torch.split(torch.cat(each), list(lengths))])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        weights = grads[0]
        if ctx.lengths is not None:
            weights = torch.repeat_interleave(weights, torch.tensor(ctx.lengths, device=gradient.device))[:, None]
        return (gradient * weights).to(gradient.dtype), None, None, None
