"""The cards of an export for the hub (model and data set), filled from the run's files, and the upload.

A run may be unfinished or from an earlier version: what its files do not hold is left out, never guessed. The hub's own
client (huggingface_hub) writes the YAML. A base without an id on the hub is named only in the text, since the hub
accepts nothing else as ``base_model``.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisheep import __version__
from minisheep.comparison import compare
from minisheep.errors import CorruptRunError, ExportError, UsageError
from minisheep.export.export_choice import WITH_GGUF, WITH_WEIGHTS, ExportChoice, ExportSpec
from minisheep.models.hub import said_offline
from minisheep.models.registry import REPO, safe_name
from minisheep.rules.data_settings import asking_rows, seeds_text
from minisheep.rules.plain_text import one_line, plural, sanitise
from minisheep.run import verdict
from minisheep.run.files import write_atomic
from minisheep.run.metric_catalogue import mapping
from minisheep.run.records import Example
from minisheep.run.verdict import Conclusion, conclude, round_sentence
from minisheep.terminal import comparison_table, run_summary

SOURCES = (
    "The model itself wrote the instructions and the answers, from five seed tasks at a time; it or a program judged"
    " them. No person read them."
)
TAGS = ("minisheep", "i-sheep", "self-alignment", "synthetic")
TOKEN = "HF_TOKEN"  # noqa: S105
_LIBRARY = {"adapter": "peft", "merged": "transformers", "hub-folder": "transformers"}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LICENCES = {
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
"""As the hub's cards name them."""
_LONGEST, _LINES = 600, 8
"""Characters and lines of an instruction or answer that a model card shows."""

Checks = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class RoundData:
    """One round's data: how much was written and kept, and why the rest was dropped."""

    number: int
    instructions: int
    kept: list[Example]
    dropped: dict[str, int]
    """By rule."""
    judge: str


def rounds(choice: ExportChoice) -> list[RoundData]:
    """The data of the rounds up to the exported one. Raises `errors.CorruptRunError`."""
    listed = []
    for r in choice.run.rounds:
        if r.number > choice.round or not r.folder.kept.exists():
            continue
        data = mapping(r.metrics.get("data"))
        dropped = {str(k): int(v) for k, v in mapping(data.get("dropped_by_rule")).items()}
        judge = safe_name(str(mapping(data.get("scores")).get("judge") or choice.run.settings.judge))
        listed.append(RoundData(r.number, int(data.get("instructions") or 0), r.kept, dropped, judge))
    return listed


def measures(choice: ExportChoice) -> list[tuple[str, str, str]]:
    """Each measure of base and exported round, as ``30% [14, 48]``; empty unless both were measured."""
    try:
        rows = {row.measured.round: row for row in compare([str(choice.run.path)]).rows}
    except (UsageError, CorruptRunError):
        return []
    if 0 not in rows or choice.round not in rows:
        return []
    base, ours = rows[0], rows[choice.round]
    listed = []
    for metric in comparison_table.metrics_of([base, ours]):
        cells = [comparison_table.cell(metric, row.measured.values.get(metric.name)) for row in (base, ours)]
        listed.append((one_line(" ".join(part for part in metric.title if part)), cells[0], cells[1]))
    return listed


def training(choice: ExportChoice) -> dict[str, str]:
    """How the adapter was trained, from the settings and the round's training.json."""
    settings = choice.run.settings
    recorded = choice.run.round(choice.round).training
    rows = {
        "method": "I-SHEEP (arXiv 2408.08072), strategy " + settings.strategy,
        **asking_rows(settings),
        "adapter": f"LoRA, rank {settings.lora_rank}, alpha {settings.lora_alpha:g}, all linear layers",
        "learning rate": f"{settings.learning_rate:g}, cosine, {settings.warmup_steps} steps of warm-up",
        "epochs": f"{settings.epochs}, {settings.batch_size} examples per step",
        "base precision": str(recorded.get("load_in") or settings.load_in),
        "seed": str(settings.seed),
    }
    if settings.loss != "sft":
        rows["loss"] = f"{settings.loss}, beta {settings.preference_beta:g}, worse answers as {settings.prefer}"
    if settings.mix_seeds:
        rows["seed tasks"] = seeds_text(settings.mix_seeds)
    for name in ("examples", "pairs", "steps", "tokens"):
        if isinstance(recorded.get(name), int):
            rows[name] = f"{recorded[name]:,}"
    return rows


def card_fields(licence: str) -> dict[str, Any]:
    """``license``, and ``license_name`` for one without an id on the hub."""
    if known := _LICENCES.get(licence.strip().lower()):
        return {"license": known}
    return {"license": "other", "license_name": safe_name(licence)} if licence.strip() else {"license": "unknown"}


def write(choice: ExportChoice, spec: ExportSpec, checks: Checks, repo: str = "") -> None:
    """Write the cards of an export, and the data set of a folder for the hub, which will be pushed to `repo`.

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
    front = ModelCardData(
        **card_fields(choice.model.licence),
        base_model=choice.base_id or None,
        base_model_relation=relation if choice.base_id else None,
        datasets=[f"{repo}-data"] if repo else None,
        language=choice.run.settings.language,
        library_name=_LIBRARY.get(spec.target, "gguf"),
        pipeline_tag="text-generation",
        tags=list(TAGS),
    )
    found = _compared(choice)
    sources = f"{SOURCES} {seeds_text(choice.run.settings.mix_seeds)}".strip()
    parts = [
        f"# {_plain(choice.title)}",
        *(_outcome(choice, found) if found else ()),
        f"{_plain(choice.model.title)}, aligned with minisheep {__version__} in"
        f" {plural(choice.round, 'round')} on instructions and answers that it wrote itself.",
        "## How to use it",
        *how_to_use(choice, spec, repo),
        "## How it was made",
        _rows(("", ""), {"base": _base(choice), **_origin(choice), **training(choice)}.items()),
        _funnel(choice, data),
        "## Every measure",
        _measures(choice),
        "## This export",
        _export(choice, spec),
        _rows(("check", "result"), ((str(c["name"]), str(c["text"])) for c in checks)),
        "## What it is for",
        "Use it to study what self-alignment does to a model of this size: for research, teaching and comparison with"
        " its base. Do not rely on it as an assistant.",
        "## Limits",
        f"{sources} It has the faults and biases of its base and may have more, since it was trained on its"
        " own mistakes. It was not tested for safety. The numbers above come from one run and from short tasks in one"
        " language.",
        "## Licence",
        _plain(choice.licence),
    ]
    return _card(front.to_yaml(), parts)


def dataset_card(choice: ExportChoice, data: Sequence[RoundData]) -> str:
    from huggingface_hub import DatasetCardData

    total = sum(len(round.kept) for round in data)
    front = DatasetCardData(
        **card_fields(choice.model.licence),
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
        f"# What {_plain(choice.model.title)} wrote for itself",
        f"{total} instructions with answers, from {plural(len(data), 'round')} of I-SHEEP (arXiv 2408.08072) with"
        f" minisheep {__version__}.",
        "## How it was made",
        SOURCES,
        _rows(
            ("", ""),
            {
                "written by": _base(choice),
                "seed": str(settings.seed),
                "instructions sampled at": _sampling(settings.generate_temperature, settings.generate_top_p),
                "answers sampled at": _sampling(settings.answer_temperature, settings.answer_top_p),
                **asking_rows(settings),
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
                ("score", "decided what was kept, on the judge's own scale; null without a judge"),
            ),
        ),
        "## Limits",
        "Instructions and answers may be wrong. The judge is the model itself: its scores show which of its answers it"
        " prefers, not which are true. Nothing was removed for being harmful, private or false.",
        "## Licence",
        _plain(choice.licence),
    ]
    return _card(front.to_yaml(), parts)


def _card(front: str, parts: Iterable[str]) -> str:
    return f"---\n{front.strip()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _plain(text: str) -> str:
    """A text of a run folder, which anybody may have made, as text alone: no link, no picture, no HTML."""
    return html.escape(re.sub(r"([\\`*_\[\]])", r"\\\1", one_line(text)), quote=False)


def _base(choice: ExportChoice) -> str:
    return _plain(choice.model.title) + (f" ({choice.base_id})" if choice.base_id else "")


def _origin(choice: ExportChoice) -> dict[str, str]:
    # The strategy decides which rounds' data the adapter has seen.
    alone = choice.run.settings.strategy in ("one-base", "direct")
    rounds = (choice.round,) if alone else range(1, choice.round + 1)
    return {
        "file of the base": f"SHA-256 {_plain(choice.model.gguf_sha256)}",
        "template": f"{choice.model.template.name}, answers end with {_plain(choice.model.template.end)}",
        "trained on": f"the kept pairs of round {', '.join(map(str, rounds))}",
    }


def _sampling(temperature: float, top_p: float) -> str:
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


def _compared(choice: ExportChoice) -> Conclusion | None:
    """The exported round against its base, where both were measured."""
    try:
        return conclude(choice.run.metrics, choice.round)
    except CorruptRunError:
        return None


def _outcome(choice: ExportChoice, found: Conclusion) -> list[str]:
    """What a reader wants first: the verdict, answers of base and round beside each other, the deciding measures."""
    told = "Answers before and after, chosen by a fixed rule, not by how good they are:"
    try:
        answers = _beside(run_summary.examples(choice.run, found), found.round)
    except CorruptRunError:
        answers = ""
    titles, rows = verdict.short_table(found, choice.run.metrics, most=1)
    table = _rows(titles, ([cell or "-" for cell in row] for row in rows))
    # A line that begins with an asterisk would be a list.
    return [round_sentence(found), told if answers else "", answers, table, f"\\{verdict.LEGEND}" if table else ""]


def _beside(examples: Sequence[verdict.BeforeAfter], round: int) -> str:
    """Instructions with two answers each, as one block of HTML: Markdown has no line breaks in cells.

    It holds no blank line, which would end the block, and every text is escaped, so none can be anything but text.
    """

    def shown(text: str) -> str:
        whole = sanitise(text).strip()
        cut = "\n".join(whole.split("\n")[:_LINES])[:_LONGEST].rstrip()
        return html.escape(cut + "..." * (cut != whole), quote=False).replace("\n", "<br>")

    rows = [f'<tr><th width="50%">base model</th><th width="50%">round {round}</th></tr>']
    for e in examples:
        note = f"<br><em>{shown(e.note)}</em>" if e.note else ""
        rows.append(f'<tr><td colspan="2"><strong>{shown(e.prompt)}</strong>{note}</td></tr>')
        rows.append(f'<tr valign="top"><td>{shown(e.base)}</td><td>{shown(e.round)}</td></tr>')
    return "\n".join(["<table>", *rows, "</table>"]) if examples else ""


def _measures(choice: ExportChoice) -> str:
    rows = _rows(("measure", "base", f"round {choice.round}"), measures(choice))
    if not rows:
        return "This round was not compared with its base, so this card makes no claim."
    caption = "Brackets hold 95 % intervals, parentheses standard errors. The model never saw held-out tasks."
    return f"{rows}\n\n{caption}"


def how_to_use(choice: ExportChoice, spec: ExportSpec, repo: str = "") -> list[str]:
    """What to type to load each form that an export holds, as Markdown blocks.

    `repo` is where a folder for the hub is pushed; without it the code names the folder of the card.
    """
    end, here = choice.model.template.end, repo or "."
    blocks = [] if repo else ["Run this in the folder of this card, or put its path in place of `.`."]
    if spec.target in WITH_WEIGHTS:
        load = ["from transformers import AutoModelForCausalLM, AutoTokenizer", "",
                f"tokenizer = AutoTokenizer.from_pretrained({here!r})",
                f"model = AutoModelForCausalLM.from_pretrained({here!r})"]  # fmt: skip
        blocks.append(_python([*load, *_ASK, f"answer = model.generate({_ARGUMENTS})", _SHOW]))
    if spec.target == "adapter":
        base = choice.base_id or "FOLDER-OF-THE-BASE"
        load = ["from pathlib import Path", "", "from peft import PeftModel",
                "from transformers import AutoModelForCausalLM, AutoTokenizer", "",
                f"folder, base = {here!r}, {base!r}",
                "tokenizer = AutoTokenizer.from_pretrained(base)",
                'tokenizer.chat_template = Path(folder, "chat_template.jinja").read_text(encoding="utf-8")',
                "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)"]  # fmt: skip
        stop = f"eos_token_id=tokenizer.convert_tokens_to_ids({end!r})"
        blocks.append(_python([*load, *_ASK, f"answer = model.generate({_ARGUMENTS}, {stop})", _SHOW]))
    if spec.target in WITH_GGUF:
        get = [f"hf download {repo} {spec.gguf.name} --local-dir ."] if repo else []
        blocks.append("\n".join(["```bash", *get, f"llama-cli --jinja -m {spec.gguf.name}", "```"]))
    return blocks


_ASK = (
    'chat = [{"role": "user", "content": "Name three colours."}]',
    'question = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")',
)
_ARGUMENTS = "**question, max_new_tokens=200, do_sample=False"
_SHOW = 'print(tokenizer.decode(answer[0, question["input_ids"].shape[1] :], skip_special_tokens=True))'


def _python(lines: Iterable[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


def _export(choice: ExportChoice, spec: ExportSpec) -> str:
    template = choice.model.template.name
    gguf = f" `{spec.gguf.name}` holds the base's GGUF and the adapter in one file, in {spec.format}."
    return (
        f"It was made with `--to {spec.target}` and passed these checks.{gguf if spec.target in WITH_GGUF else ''} Use"
        f" it with its own chat template ({template}), the only one it was trained with."
    )


def _rows(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty without rows."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"

    body = [line(row) for row in rows]
    return "\n".join([line(titles), line(["---"] * len(titles)), *body]).replace("<", "&lt;") if body else ""


def _lines(round: RoundData) -> bytes:
    """The kept pairs as JSON lines. A lone surrogate, which the hub cannot read, becomes a question mark."""
    rows = (
        {"id": e.id, "instruction": e.instruction, "input": e.input, "output": e.output, "messages": e.messages,
         "score": e.score}
        for e in round.kept
    )  # fmt: skip
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace")


def check(repo: str, target: str) -> str:
    """The token from the environment. Raises `errors.UsageError` if a push cannot work, before anything is made."""
    if target != "hub-folder":
        raise UsageError(f"--push needs --to hub-folder, not {target}. Nothing was exported.", "Give --to hub-folder.")
    if REPO.fullmatch(repo) is None:
        raise UsageError(f"--push {repo[:80]!r} is not OWNER/NAME. Nothing was exported.", "Give --push OWNER/NAME.")
    if said_offline():
        raise UsageError("--push needs the network, but HF_HUB_OFFLINE is set.", "Unset HF_HUB_OFFLINE.")
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise UsageError(
            f"--push needs your token in the environment variable {TOKEN}. Nothing was exported.", f"Set {TOKEN}."
        )
    return token


def push(made: Path, repo: str, token: str, *, public: bool) -> list[str]:
    """Upload the model to `repo` and its data to ``repo-data`` with the hub's own client; returns their addresses.

    New repositories are private unless `public`; existing ones keep their visibility. Raises `errors.ExportError`; the
    export itself stays where it is.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    client: Any = huggingface_hub.HfApi(token=token)
    model, dataset = made / "model", made / "dataset"
    addresses = []
    try:
        for folder, name, kind in ((dataset, f"{repo}-data", "dataset"), (model, repo, "model")):
            client.create_repo(name, private=not public, repo_type=kind, exist_ok=True)
            address = client.upload_folder(
                repo_id=name, folder_path=folder, repo_type=kind, commit_message="Export of minisheep"
            )
            addresses.append(str(address))
    except (HfHubHTTPError, OSError, ValueError) as error:
        # The client's messages hold addresses, never the token.
        reason = " ".join(str(error).split())[:300]
        raise ExportError(
            f"The hub did not accept {repo}: {reason}. The export itself is complete, in {made}.",
            f"Fix that, then upload it with `hf upload {repo} {model}`.",
        ) from None
    return addresses
