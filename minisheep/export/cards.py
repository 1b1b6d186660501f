"""The model card and the data set's card, with every field filled from the run.

The YAML is written by the hub's own client (huggingface_hub, ModelCardData), which also reads it. A base that has no id
on the hub is named in the text alone, since the hub refuses any other word as ``base_model``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minisheep import __version__
from minisheep.export import facts
from minisheep.export.choose import Choice
from minisheep.export.licences import card_fields
from minisheep.export.spec import WITH_GGUF, Spec
from minisheep.machine.files import write_atomic

TAGS = ("minisheep", "i-sheep", "self-alignment", "synthetic")
_LIBRARY = {"adapter": "peft", "merged": "transformers", "hub-folder": "transformers"}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

Checks = Sequence[Mapping[str, Any]]


def write(choice: Choice, spec: Spec, checks: Checks, repo: str = "") -> None:
    """The cards of an export, and for a folder for the hub its data set; `repo` is where that will be pushed.

    Raises `errors.CorruptRunError` and OSError.
    """
    data = facts.rounds(choice)
    write_atomic(spec.model_folder / "README.md", model_card(choice, spec, data, checks, repo).encode())
    if spec.target == "hub-folder":
        folder = spec.output / "dataset"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "README.md", dataset_card(choice, data).encode())
        for round in data:
            write_atomic(folder / "data" / f"round-{round.number}.jsonl", _lines(round))


def model_card(choice: Choice, spec: Spec, data: Sequence[facts.RoundData], checks: Checks, repo: str = "") -> str:
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
        _rows(("", ""), {"base": _base(choice), **_origin(choice), **facts.training(choice)}.items()),
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
        f"{facts.SOURCES} It has the faults and biases of its base, and may have more of them: it was trained on its"
        " own mistakes. It was not tested for safety. The measures above are of short tasks in one language, of one"
        " run.",
        "## Licence",
        choice.licence,
    ]
    return _card(front.to_yaml(), parts)


def dataset_card(choice: Choice, data: Sequence[facts.RoundData]) -> str:
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
        facts.SOURCES,
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


def _base(choice: Choice) -> str:
    return f"{choice.model.title}" + (f" ({choice.base_id})" if choice.base_id else "")


def _origin(choice: Choice) -> dict[str, str]:
    return {
        "file of the base": f"SHA-256 {choice.model.gguf_sha256}",
        "template": f"{choice.model.template.name}, answers end with `{choice.model.template.end}`",
        "trained on": f"the kept pairs of round {', '.join(map(str, facts.trained_on(choice)))}",
    }


def _drawn(temperature: float, top_p: float) -> str:
    return f"temperature {temperature:g}, top-p {top_p:g}"


def _funnel(choice: Choice, data: Sequence[facts.RoundData]) -> str:
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


def _measures(choice: Choice) -> str:
    found = facts.measures(choice)
    if not found:
        return "This round was not measured against its base, so nothing is claimed."
    told = _rows(("measure", "base", f"round {choice.round}"), found)
    return f"{told}\n\nBrackets are 95 % intervals, parentheses standard errors; held-out tasks were never shown to it."


def _export(choice: Choice, spec: Spec) -> str:
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


def _lines(round: facts.RoundData) -> bytes:
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
