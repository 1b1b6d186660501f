"""The model card and the data set's card, with every field filled from the run.

The YAML is written by the hub's own client (huggingface_hub, ModelCardData), which also reads it. A base that has no id
on the hub is named in the text alone, since the hub refuses any other word as ``base_model``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisheep import __version__
from minisheep.comparison import compare
from minisheep.errors import CorruptRunError, ExportError, UsageError
from minisheep.export.export_choice import WITH_GGUF, ExportChoice, ExportSpec
from minisheep.models.hub import said_offline
from minisheep.models.registry import REPO, safe_name
from minisheep.rules.plain_text import one_line
from minisheep.run.files import write_atomic
from minisheep.run.records import Example
from minisheep.terminal import comparison_table

# What a run says of itself for the cards: numbers from its files, each in words. Reads, never writes.
#
# A run may be of an earlier version or unfinished: what its files do not hold is left out and never guessed.
SOURCES = (
    "The instructions and the answers were written by the model itself, from five seed tasks at a time, and judged by"
    " the model itself. No person read them."
)


@dataclass(frozen=True, slots=True)
class RoundData:
    """One round's data: how much was made and kept, and why the rest was dropped."""

    number: int
    instructions: int
    kept: list[Example]
    dropped: dict[str, int]
    """By rule."""
    judge: str


def rounds(choice: ExportChoice) -> list[RoundData]:
    """The data of the rounds up to the exported one. Raises `errors.CorruptRunError`."""
    found = []
    for one in choice.run.rounds:
        if one.number > choice.round or not one.folder.kept.exists():
            continue
        data = _object(one.metrics.get("data"))
        dropped = {str(k): int(v) for k, v in _object(data.get("dropped_by_rule")).items()}
        judge = str(_object(data.get("scores")).get("judge") or choice.run.settings.judge)
        found.append(RoundData(one.number, int(data.get("instructions") or 0), one.kept, dropped, judge))
    return found


def trained_on(choice: ExportChoice) -> tuple[int, ...]:
    """The rounds whose data the exported adapter has seen, by the run's strategy."""
    if choice.run.settings.strategy in ("one-base", "direct"):
        return (choice.round,)
    return tuple(range(1, choice.round + 1))


def measures(choice: ExportChoice) -> list[tuple[str, str, str]]:
    """Each measure of base and exported round, as ``30% [14, 48]``; empty where they were not both measured."""
    try:
        rows = {row.measured.round: row for row in compare([str(choice.run.path)]).rows}
    except (UsageError, CorruptRunError):
        return []
    if 0 not in rows or choice.round not in rows:
        return []
    base, ours = rows[0], rows[choice.round]
    found = []
    for metric in comparison_table.metrics_of([base, ours]):
        cells = [comparison_table.cell(metric, row.measured.values.get(metric.name)) for row in (base, ours)]
        found.append((one_line(" ".join(part for part in metric.title if part)), cells[0], cells[1]))
    return found


def training(choice: ExportChoice) -> dict[str, str]:
    """How the adapter was trained, by the settings and the round's training.json."""
    settings = choice.run.settings
    told = choice.run.round(choice.round).training
    found = {
        "method": "I-SHEEP (arXiv 2408.08072), strategy " + settings.strategy,
        "adapter": f"LoRA, rank {settings.lora_rank}, alpha {settings.lora_alpha:g}, all linear layers",
        "learning rate": f"{settings.learning_rate:g}, cosine, {settings.warmup_steps} steps of warm-up",
        "epochs": f"{settings.epochs}, {settings.batch_size} examples a step",
        "base precision": str(told.get("load_in") or settings.load_in),
        "seed": str(settings.seed),
    }
    for name in ("examples", "steps", "tokens"):
        if isinstance(told.get(name), int):
            found[name] = f"{told[name]:,}"
    return found


def _object(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


# Names of licences as the hub's cards write them. Pure.
_KNOWN = {
    "apache-2.0": "apache-2.0",
    "apache 2.0": "apache-2.0",
    "mit": "mit",
    "gemma": "gemma",
    "gemma terms of use": "gemma",
    "meta llama 3 community licence": "llama3",
    "llama3": "llama3",
    "llama3.1": "llama3.1",
    "llama3.2": "llama3.2",
}


def card_fields(licence: str) -> dict[str, Any]:
    """``license``, and for one that the hub has no id for ``license_name`` too; ``unknown`` for none."""
    known = _KNOWN.get(licence.strip().lower())
    if known:
        return {"license": known}
    return {"license": "other", "license_name": safe_name(licence)} if licence.strip() else {"license": "unknown"}


TAGS = ("minisheep", "i-sheep", "self-alignment", "synthetic")
_LIBRARY = {"adapter": "peft", "merged": "transformers", "hub-folder": "transformers"}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

Checks = Sequence[Mapping[str, Any]]


def write(choice: ExportChoice, spec: ExportSpec, checks: Checks, repo: str = "") -> None:
    """The cards of an export, and for a folder for the hub its data set; `repo` is where that will be pushed.

    Raises `errors.CorruptRunError` and OSError.
    """
    data = rounds(choice)
    write_atomic(spec.model_folder / "README.md", model_card(choice, spec, data, checks, repo).encode())
    if spec.target == "hub-folder":
        folder = spec.output / "dataset"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "README.md", dataset_card(choice, data).encode())
        for round in data:
            write_atomic(folder / "data" / f"round-{round.number}.jsonl", _lines(round))


def model_card(
    choice: ExportChoice, spec: ExportSpec, data: Sequence[RoundData], checks: Checks, repo: str = ""
) -> str:
    from huggingface_hub import ModelCardData

    relation = "adapter" if spec.target == "adapter" else "finetune"
    licence = card_fields(choice.model.licence)
    front = ModelCardData(
        **licence,
        base_model=choice.base_id or None,
        base_model_relation=relation if choice.base_id else None,
        datasets=[f"{repo}-data"] if repo else None,
        language=choice.run.settings.language,
        library_name=_LIBRARY.get(spec.target, "gguf"),
        pipeline_tag="text-generation",
        tags=list(TAGS),
    )
    parts = [
        f"# {choice.title}",
        f"{choice.model.title} aligned on instructions and answers that it wrote and judged itself, in {choice.round}"
        f" round(s), with minisheep {__version__}.",
        "## How it was made",
        _rows(("", ""), {"base": _base(choice), **_origin(choice), **training(choice)}.items()),
        _funnel(choice, data),
        "## What it did to the model",
        _measures(choice),
        "## This export",
        _export(choice, spec),
        _rows(("check", "found"), ((str(c["name"]), str(c["text"])) for c in checks)),
        "## What it is for",
        "Looking at what self-alignment does to a model of this size: research, teaching, comparison with its base. It"
        " is not an assistant to rely on.",
        "## Limits",
        f"{SOURCES} It has the faults and biases of its base, and may have more of them: it was trained on its"
        " own mistakes. It was not tested for safety. The measures above are of short tasks in one language, of one"
        " run.",
        "## Licence",
        choice.licence,
    ]
    return _card(front.to_yaml(), parts)


def dataset_card(choice: ExportChoice, data: Sequence[RoundData]) -> str:
    from huggingface_hub import DatasetCardData

    total = sum(len(round.kept) for round in data)
    licence = card_fields(choice.model.licence)
    front = DatasetCardData(
        **licence,
        language=[choice.run.settings.language],
        annotations_creators="machine-generated",
        language_creators="machine-generated",
        task_categories=["text-generation"],
        size_categories=next((name for limit, name in _SIZES if total < limit), "1M<n<10M"),
        pretty_name=f"What {choice.model.title} wrote for itself",
        tags=list(TAGS),
        configs=[
            {"config_name": f"round-{round.number}", "data_files": f"data/round-{round.number}.jsonl"} for round in data
        ],
    )
    settings = choice.run.settings
    parts = [
        f"# What {choice.model.title} wrote for itself",
        f"{total} instructions with answers, from {len(data)} round(s) of I-SHEEP (arXiv 2408.08072) with minisheep"
        f" {__version__}.",
        "## How it was made",
        SOURCES,
        _rows(
            ("", ""),
            {
                "written by": _base(choice),
                "seed": str(settings.seed),
                "instructions drawn at": _drawn(settings.generate_temperature, settings.generate_top_p),
                "answers drawn at": _drawn(settings.answer_temperature, settings.answer_top_p),
                "dropped as too similar": f"ROUGE-L above {settings.novelty:g} with a seed or an earlier instruction",
                "kept": str(settings.keep),
            }.items(),
        ),
        _funnel(choice, data),
        "## Fields",
        _rows(
            ("field", "what it is"),
            (
                ("id", "digest of the record"),
                ("instruction, input, output", "the pair; `input` may be empty"),
                ("messages", "the same as a chat"),
                ("score", "what keeping was decided by, on the judge's own scale; null where there was no judge"),
            ),
        ),
        "## Limits",
        "Answers may be wrong, and so may instructions. The judge is the model itself: its scores tell which of its"
        " answers it prefers, not which are true. Nothing was removed for being harmful, private or false.",
        "## Licence",
        choice.licence,
    ]
    return _card(front.to_yaml(), parts)


def _card(front: str, parts: Iterable[str]) -> str:
    return f"---\n{front.strip()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _base(choice: ExportChoice) -> str:
    return f"{choice.model.title}" + (f" ({choice.base_id})" if choice.base_id else "")


def _origin(choice: ExportChoice) -> dict[str, str]:
    return {
        "file of the base": f"SHA-256 {choice.model.gguf_sha256}",
        "template": f"{choice.model.template.name}, answers end with `{choice.model.template.end}`",
        "trained on": f"the kept pairs of round {', '.join(map(str, trained_on(choice)))}",
    }


def _drawn(temperature: float, top_p: float) -> str:
    return f"temperature {temperature:g}, top-p {top_p:g}"


def _funnel(choice: ExportChoice, data: Sequence[RoundData]) -> str:
    rows = (
        (
            str(round.number),
            str(round.instructions or "-"),
            str(len(round.kept)),
            round.judge,
            ", ".join(f"{name} {count}" for name, count in round.dropped.items()) or "-",
        )
        for round in data
    )
    return _rows(("round", "instructions", "kept", "judge", "dropped by rule"), rows)


def _measures(choice: ExportChoice) -> str:
    found = measures(choice)
    if not found:
        return "This round was not measured against its base, so nothing is claimed."
    told = _rows(("measure", "base", f"round {choice.round}"), found)
    return f"{told}\n\nBrackets are 95 % intervals, parentheses standard errors; held-out tasks were never shown to it."


def _export(choice: ExportChoice, spec: ExportSpec) -> str:
    template = choice.model.template.name
    told = [f"It was made and checked as `--to {spec.target}`; a failed check would have left nothing."]
    if spec.target in WITH_GGUF:
        told.append(f"`{spec.gguf.name}` is the base's GGUF and the adapter in one file, in {spec.format}.")
    told.append(f"Talk to it in its own chat template ({template}); it was trained in no other.")
    return " ".join(told)


def _rows(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty without rows."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"

    body = [line(row) for row in rows]
    return "\n".join([line(titles), line(["---"] * len(titles)), *body]) if body else ""


def _lines(round: RoundData) -> bytes:
    """The kept pairs as JSON lines; half a surrogate pair, which the hub cannot read, becomes a question mark."""
    rows = (
        {"id": e.id, "instruction": e.instruction, "input": e.input, "output": e.output, "messages": e.messages,
         "score": e.score}
        for e in round.kept
    )  # fmt: skip
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace")


def folders(made: Path) -> tuple[Path, Path]:
    """Of a folder for the hub: the model's and the data set's."""
    return made / "model", made / "dataset"


# Sends a folder for the hub to the hub: only when asked, private unless said otherwise, by the hub's own client.
TOKEN = "HF_TOKEN"  # noqa: S105


def check(repo: str, target: str) -> str:
    """The token of the environment. Raises `errors.UsageError` before anything is made where a push cannot go."""
    if target != "hub-folder":
        raise UsageError(f"--push goes with --to hub-folder, not {target}.", "Nothing was exported.")
    if REPO.fullmatch(repo) is None:
        raise UsageError(f"--push {repo[:80]!r} is no OWNER/NAME.", "Nothing was exported.")
    if said_offline():
        raise UsageError("--push needs the network, and HF_HUB_OFFLINE says that there is none.", "Unset it.")
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise UsageError(
            f"--push needs a token of yours in the environment variable {TOKEN}.", "Nothing was exported or sent."
        )
    return token


def push(made: Path, repo: str, token: str, *, public: bool) -> list[str]:
    """Upload the model to `repo` and its data to ``repo-data``; their addresses.

    A repository that exists keeps its visibility. Raises `errors.ExportError`; the export itself stays where it is.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    client: Any = huggingface_hub.HfApi(token=token)
    model, dataset = folders(made)
    addresses = []
    try:
        for folder, name, kind in ((dataset, f"{repo}-data", "dataset"), (model, repo, "model")):
            client.create_repo(name, private=not public, repo_type=kind, exist_ok=True)
            told = client.upload_folder(
                repo_id=name, folder_path=folder, repo_type=kind, commit_message="Export of minisheep"
            )
            addresses.append(str(told))
    except (HfHubHTTPError, OSError, ValueError) as error:
        # The client's messages hold addresses, never the token.
        reason = " ".join(str(error).split())[:300]
        raise ExportError(
            f"The hub did not take {repo}: {reason}. The export is whole in {made}.",
            f"Mend that, and upload it with `hf upload {repo} {model}`.",
        ) from None
    return addresses
