"""The probes: each does a small piece of a run with native or heavy libraries, in a worker, and returns facts.

A probe raises whatever its libraries raise; `answer` turns that into facts. Probes run in the order of `GROUPS`, one
process a group, so that they share imports. They write only into the folder of the job and the model cache.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minisheep.doctor.check_result import CheckResult, Facts, fail, ok
from minisheep.engines.base import GenerateRequest, LoglikRequest, Sampling
from minisheep.errors import MinisheepError
from minisheep.formats import gguf_header, lora_gguf, model_facts
from minisheep.machine import jinja_child
from minisheep.models.hub import shards
from minisheep.models.prepared import PreparedModel
from minisheep.models.registry import ModelEntry, find_model
from minisheep.prepare import gguf_of, training_weights, versions
from minisheep.rules.plain_text import shell
from minisheep.rules.templates import choose, from_jinja
from minisheep.run.events import Emit, Found, Note
from minisheep.run.files import nearest, sha256_of, try_lock, write_json
from minisheep.run.folder import Appender, Lock
from minisheep.trainers.base import TrainExample, TrainJob, TrainSettings

USER = "Name three colours of the rainbow."
ANSWER = "Three colours of the rainbow are red, green and blue."
MORE = (
    ("How many legs has a spider?", "A spider has eight legs."),
    ("Write the opposite of cold.", "The opposite of cold is hot."),
    ("What do bees make?", "Bees make honey from the nectar of flowers."),
)
STORY = (
    "The lighthouse stood at the end of a long stone pier. Every evening the keeper climbed the ninety steps, lit the"
    " lamp and wrote the weather into a book: wind from the west, rain before midnight, two ships in sight. In the"
    " morning he put the lamp out and went down to feed the hens. His daughter asked him once how many evenings he had"
    " climbed the steps, and he said that the book knew, since he had written one line for each of them. So she took"
    " the book and counted the lines: wind from the west, rain before midnight, two ships in sight, again and again,"
    " for thirty years. The lighthouse keeper laughed and lit the lamp."
)
"""An answer of about 150 tokens, for which both sides are asked how likely it is. A wrong rotary embedding shows only
over such a length: a short answer came out nearer than 4 bits make a right one."""
NEW_TOKENS = 16
REREAD_BYTES = 10**9
"""Files up to this size are hashed again; of larger ones the stored hash counts."""
SMALL_BYTES = 2 * 10**9
"""Weights up to this size are compared in bfloat16, larger ones as training loads them."""


def llama(model: PreparedModel | None, folder: Path) -> Facts:
    """llama.cpp loads, and what it was built for."""
    from minisheep.engines import native

    offload = native.offload()
    system = native.llama_cpp.llama_print_system_info().decode("utf-8", "replace")
    return {
        "version": native.llama_cpp.__version__, "offload": offload.works, "system": " ".join(system.split()),
        "built": offload.built, "fault": "" if offload.works else offload.fault,
    }  # fmt: skip


def generate(model: PreparedModel, folder: Path) -> Facts:
    """Sixteen greedy tokens, and the likelihood of a given answer, on the GPU if llama.cpp can."""
    from minisheep.engines import budget, native
    from minisheep.engines.llamacpp import LlamaCppEngine

    offload = native.offload().works
    before = budget.free_bytes(offload=True) if offload else None
    engine = LlamaCppEngine(model.gguf, slots=2, context=512)
    try:
        layers = engine.offloaded
        taken = None if before is None else before - (budget.free_bytes(offload=True) or 0)
        prompt, answer = model.template.prompt(USER), model.template.completion(STORY)
        began = time.perf_counter()
        (written,) = engine.generate([GenerateRequest("1", prompt, Sampling(temperature=0, max_tokens=NEW_TOKENS))])
        seconds = time.perf_counter() - began
        (read,) = engine.loglik([LoglikRequest("1", prompt, answer)])
        prompt_ids = engine.vocabulary.encode(prompt, bos=True)
        ids = [*prompt_ids, *engine.vocabulary.encode(answer, bos=False, after=prompt_ids[-1])]
        return {
            "tokens": written.tokens, "seconds": seconds, "layers": layers, "taken": taken,
            "weights": model.gguf.stat().st_size, "description": engine.info.description,
            "ids": ids, "prompt": len(prompt_ids), "logprobs": list(read.logprobs),
        }  # fmt: skip
    finally:
        engine.close()


def torch(model: PreparedModel | None, folder: Path) -> Facts:
    """PyTorch, and a matrix product on the GPU where it sees one."""
    import torch as library

    facts: Facts = {"version": library.__version__, "cuda_build": library.version.cuda or "", "cuda": False}
    if library.cuda.is_available():
        ones = library.ones(64, 64, device="cuda")
        facts["cuda"] = bool((ones @ ones).sum().item() == 64**3)
        facts["bf16"] = library.cuda.is_bf16_supported(including_emulation=False)
        facts["cards"] = [library.cuda.get_device_name(i) for i in range(library.cuda.device_count())]
    return facts


def bitsandbytes(model: PreparedModel | None, folder: Path) -> Facts:
    """bitsandbytes' own library, by a 4-bit round trip where training would do it."""
    import torch as library

    import minisheep.trainers.lora_model  # noqa: F401  # takes the hub offline and silences bitsandbytes

    import bitsandbytes as bnb  # isort: skip
    from bitsandbytes import cextension, functional  # isort: skip

    device = "cuda" if library.cuda.is_available() else "cpu"
    values = library.linspace(-1, 1, 4096, device=device).reshape(64, 64)
    packed, state = functional.quantize_4bit(values, quant_type="nf4", compress_statistics=True)
    back = functional.dequantize_4bit(packed, state)
    return {
        "version": bnb.__version__, "device": device, "library": type(cextension.lib).__name__,
        "with_cuda": bool(getattr(cextension.lib, "compiled_with_cuda", False)),
        "error": "" if (off := float((back - values).abs().max())) < 0.2 else f"a 4-bit round trip is off by {off:.2f}",
    }  # fmt: skip


def train(model: PreparedModel, folder: Path) -> Facts:
    """One optimizer step by the trainer of a run, and its adapter as a GGUF."""
    from minisheep.trainers.lora_model import this_machine
    from minisheep.trainers.peft import PeftTrainer

    job = one_step(model, folder)
    result = PeftTrainer().train(job, lambda event: None, lambda: False)
    moved = max(float(abs(t).max()) for name, t in lora_gguf.read_tensors(job.output).items() if "lora_B" in name)
    lora_gguf.convert_adapter(job.output, model.gguf, folder / "adapter.gguf")
    return {
        "loss": result.last_loss, "seconds": result.seconds, "steps": result.steps, "moved": moved,
        "load_in": result.load_in, "device": this_machine("auto").device.type,
        "adapter": (folder / "adapter.gguf").stat().st_size,
    }  # fmt: skip


def one_step(model: PreparedModel, folder: Path) -> TrainJob:
    """Four short examples, trained on once together."""
    # From 512 tokens on, Unsloth checkpoints as it does in a run.
    settings = TrainSettings(epochs=1, batch_size=4, micro_batch_size=4, validation=0.0, max_length=512)
    job = TrainJob(1, examples(model), model.gguf, model.weights, folder / "adapter", folder / "scratch", settings)
    job.scratch.mkdir()
    return job


def weights(model: PreparedModel, folder: Path) -> Facts:
    """The ids that training uses for the text of `generate`, and their log-probabilities by the training weights."""
    import torch as library

    from minisheep.trainers.lora_model import load_base, this_machine
    from minisheep.trainers.peft import tokenise

    asked = TrainExample(model.template.prompt(USER), model.template.completion(STORY))
    (pair,) = tokenise(model.gguf, (asked,), 512).pairs
    size = sum((model.weights / name).stat().st_size for name in shards(model.weights))
    precision = this_machine("bf16" if size <= SMALL_BYTES else "auto")
    base = load_base(model.weights, precision).eval()
    ids = library.tensor([pair.ids], device=precision.device)
    with library.no_grad():
        logprobs = base(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    chosen = logprobs.gather(1, ids[0, 1:, None])[pair.prompt - 1 :, 0].tolist()
    return {
        "ids": list(pair.ids), "prompt": pair.prompt, "logprobs": chosen, "load_in": precision.load_in,
        "note": model.weights_note,
    }  # fmt: skip


def file(model: PreparedModel, folder: Path) -> Facts:
    """The model's file, read again where that is quick, and its chat template and that of the training weights."""
    size = model.gguf.stat().st_size
    again = sha256_of(model.gguf) if size <= REREAD_BYTES else ""
    return {
        "name": model.name, "path": str(model.gguf), "bytes": size, "sha256": model.gguf_sha256, "again": again,
        "source": model.source, "architecture": model.architecture, "template": model.template.name,
        "format": model_facts.quantisation(gguf_header.read_header(model.gguf)),
        "templates": both(model),
    }  # fmt: skip


def unsloth(model: PreparedModel | None, folder: Path) -> Facts:
    """Unsloth imports; with wrong versions or without a GPU it does not."""
    import unsloth as library

    return {"version": str(library.__version__), "device": str(getattr(library, "DEVICE_TYPE", ""))}


def unsloth_step(model: PreparedModel, folder: Path) -> Facts:
    """One optimizer step through Unsloth: its kernels are compiled now, by tools that may be missing."""
    from minisheep.trainers.unsloth import UnslothTrainer

    result = UnslothTrainer().train(one_step(model, folder), lambda event: None, lambda: False)
    return {"loss": result.last_loss, "seconds": result.seconds, "load_in": result.load_in}


def hub(model: PreparedModel | None, folder: Path) -> Facts:
    """The hub answers, by its own client with the user's proxy and mirror."""
    from huggingface_hub import constants, utils

    client: Any = utils  # documented, but not exported for type checkers

    if constants.HF_HUB_OFFLINE:
        return {"offline": True}
    try:
        response = client.get_session().get(f"{constants.ENDPOINT}/api/models?limit=1", timeout=5)
        return {"offline": False, "status": int(response.status_code), "reason": ""}
    except Exception as error:
        # Errors of two HTTP libraries, by version; all mean that nothing can be downloaded now.
        return {"offline": False, "status": 0, "reason": type(error).__name__}


def examples(model: PreparedModel) -> tuple[TrainExample, ...]:
    pairs = ((USER, ANSWER), *MORE)
    return tuple(TrainExample(model.template.prompt(user), model.template.completion(text)) for user, text in pairs)


GROUPS: dict[str, dict[str, Callable[..., Facts]]] = {
    "hub": {"hub": hub},
    "llama.cpp": {"llama": llama, "file": file, "generate": generate},
    "training": {"torch": torch, "bitsandbytes": bitsandbytes, "train": train, "weights": weights},
    "unsloth": {"unsloth": unsloth, "unsloth step": unsloth_step},
}
NEED_MODEL = frozenset({"file", "generate", "train", "weights", "unsloth step"})
MODEL = "model.json"


def do(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> None:
    """A worker's job, from `doctor.diagnosis.Probing`: prepare the model, or run a group's probes one after the other.

    Without a model, the probes that need one are left out.
    """
    folder = Path(job["folder"])
    # Unsloth writes compiled code into the current folder.
    os.chdir(folder)
    if job["offline"]:
        # The hub's client reads this when it is imported.
        os.environ["HF_HUB_OFFLINE"] = "1"
    stored = folder / MODEL
    if job["phase"] == "prepare":
        prepare(
            find_model(job["model"], gguf=job["gguf"], weights=job["weights"]), stored, emit, offline=job["offline"]
        )
        return
    model = PreparedModel.read(stored) if stored.exists() else None
    scratch = folder / job["phase"]
    scratch.mkdir()
    for name, probe in GROUPS[job["phase"]].items():
        if name not in NEED_MODEL or model is not None:
            emit(Found(name, answer(probe, model, scratch)))


def answer(probe: Callable[..., Facts], model: PreparedModel | None, folder: Path) -> Facts:
    """A probe's facts; an exception becomes ``error`` (and ``fix``), with the traceback on stderr."""
    try:
        return probe(model, folder)
    except MinisheepError as error:
        return {"error": error.message, "fix": error.fix}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def prepare(entry: ModelEntry, output: Path, emit: Emit, *, offline: bool) -> None:
    """Write `output` (``model.json``): the model as a run prepares it, but without inference copies and their trials.

    Raises `errors.MinisheepError` where the model is not available.
    """
    # Without a network, fail in seconds, not after pip's five attempts.
    os.environ.setdefault("PIP_RETRIES", "1")
    os.environ.setdefault("PIP_DEFAULT_TIMEOUT", "8")
    fetched = gguf_of(entry, lambda text: emit(Note(text)), offline)
    header = gguf_header.read_header(fetched.path)
    lora_gguf.check_architecture(header.architecture)
    facts, special = model_facts.model_facts(header), model_facts.special_tokens(header)
    weights, note = training_weights(entry, fetched.path, fetched.sha256, emit, offline=offline)
    model = PreparedModel(
        name=entry.name, title=entry.title, kind=entry.kind, architecture=header.architecture, licence=entry.licence,
        gguf=fetched.path, gguf_sha256=fetched.sha256, source=fetched.source, inference_gguf=fetched.path,
        inference_note="", weights=weights, weights_note=note,
        template=choose("auto", entry.template, facts.chat_template, special, jinja_child.render), versions=versions(),
    )  # fmt: skip
    model.write(output)


MOST = 2**20
"""Characters that are read of a template, which is an untrusted file."""


def both(model: PreparedModel) -> Facts:
    """How each side's own template frames one turn, as ``[before, between, end]``; empty where it has none."""
    header = gguf_header.read_header(model.gguf)
    source, special = model_facts.chat_template(header), model_facts.special_tokens(header)
    return {"gguf": frame(source, special), "weights": frame(of_weights(model.weights), special)}


def frame(source: str, special: dict[str, str]) -> list[str]:
    """The frame of a Jinja template; empty for none and for one that cannot be rendered."""
    if not source:
        return []
    try:
        template = from_jinja(source, special, jinja_child.render)
    except MinisheepError:
        return []
    return [template.before, template.between, template.end]


def of_weights(folder: Path) -> str:
    """The template in a folder of weights (chat_template.jinja, else tokenizer_config.json); empty if there is none."""
    try:
        file = folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")[:MOST]
        data = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return ""
    template = data.get("chat_template") if isinstance(data, dict) else None
    return template[:MOST] if isinstance(template, str) else ""


def check_folders(cache: Path, runs: Path) -> CheckResult:
    """Writes and locks files in the model cache and in the folder of runs, and removes them again."""
    faults = [text for what, folder in (("cache", cache), ("runs", runs)) if (text := fault(what, folder))]
    if faults:
        fix = f"chmod u+rwx {shell(nearest(runs))}, or set MINISHEEP_CACHE and --run to folders on a local disk."
        return fail("write and lock", "; ".join(faults), fix)
    return ok("write and lock", f"{cache} and {runs} can be written, renamed in, synced and locked")


def fault(what: str, folder: Path) -> str:
    """The fault of the nearest existing folder at or above `folder`; empty if there is none."""
    there = nearest(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".minisheep-doctor-", dir=there) as name:
            path = Path(name)
            write_json(path / "whole.json", {"whole": True})
            with Appender(path / "lines.jsonl") as lines:
                lines.append({"line": 1})
            return _lock_fault(path, there)
    except (OSError, MinisheepError) as error:
        reason = error.message if isinstance(error, MinisheepError) else error.strerror or str(error)
        return f"the folder of the {what}, {there}, cannot be written: {reason}"


def _lock_fault(path: Path, there: Path) -> str:
    """While the first handle holds the lock, a second must be refused; some network disks grant it twice."""
    with Lock(path):
        handle = os.open(path / ".lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            if not try_lock(handle):
                return ""
        finally:
            os.close(handle)
        return f"{there} grants the same lock twice, so that two runs could write into one folder"
