"""Reads seed tasks, prompts and verifiable prompts: those that minisheep ships, or a user's in their place.

What it ships for another language has that language's code in its name (``seeds.zh.jsonl``, ``prompts/zh``); where
there is none, English serves.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from minisheep.errors import ConfigError, SeedFileError, UsageError
from minisheep.rules.identity import digest
from minisheep.rules.ifeval import Constraint, VerifiableItem, resolve
from minisheep.rules.prompts import PLACEHOLDERS
from minisheep.rules.task_list import Task
from minisheep.rules.wording import Wording, wording_of

_SEED_FIX = "Nothing was started. Mend this line, or give another --seeds file."
HELD_OUT_SHARE = 0.3
"""Of seed files that do not say what to hold out; minisheep's own does."""


@dataclass(frozen=True, slots=True)
class SeedTask:
    """A task with a good answer. A `held_out` one is never shown to the model and serves evaluation."""

    id: str
    kind: str
    instruction: str
    input: str
    output: str
    held_out: bool

    @property
    def task(self) -> Task:
        return Task(self.instruction, self.input)


def shipped(name: str, language: str = "en") -> str:
    """A file or folder of minisheep's own: that of the language where there is one, else the English one.

    name: as the English one is called, ``seeds.jsonl`` for example.
    """
    stem, _, ending = name.partition(".")
    own = f"{stem}.{language}.{ending}" if ending else f"{stem}/{language}"
    found = resources.files("minisheep.data").joinpath(own)
    return own if language != "en" and (found.is_file() or found.is_dir()) else name


def load_seeds(path: str = "", language: str = "en") -> list[SeedTask]:
    """Seed tasks from a file in our format, Self-Instruct's or Alpaca's; minisheep's own for an empty `path`.

    JSON lines, or one JSON array. Where no task says `held_out`, every third or so is held out, chosen by its id.
    Raises `errors.SeedFileError` naming the file and the line of the first fault, and for a file with too few tasks.
    """
    text, name = _read(path, shipped("seeds.jsonl", language), "seed file", SeedFileError, _SEED_FIX)
    seeds: list[SeedTask] = []
    seen: set[str] = set()
    split = False
    for number, item in _items(name, text):
        for seed in _seeds_of(name, number, item):
            if seed.id in seen:
                raise SeedFileError(
                    f"{name}, line {number}: the id {seed.id!r} (or the same task) stands twice.",
                    "Nothing was started. Give every seed task an id of its own, or none.",
                )
            seen.add(seed.id)
            seeds.append(seed)
        split = split or "held_out" in item
    if not seeds:
        raise SeedFileError(f"{name} holds no seed task.", 'A line looks like {"instruction": ..., "output": ...}.')
    if not split:
        seeds = _hold_out(seeds)
    if not any(s.held_out for s in seeds) or all(s.held_out for s in seeds):
        raise SeedFileError(
            f"{name} has {len(seeds)} seed task(s), too few both to show and to hold out for evaluation.",
            "Give at least 6, or mark some with held_out true and some false.",
        )
    return seeds


MOST_OF_A_PIPE = 1 << 28
"""Bytes; a pipe does not tell how much there is to come."""


def read_given(path: str | Path, most: int = MOST_OF_A_PIPE) -> bytes:
    """The bytes of a regular file, or of a pipe of a bounded length: a device such as /dev/zero has no end, and would
    take all memory. Raises OSError, whose `strerror` says why nothing is read."""
    with open(path, "rb") as file:
        kind = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(kind):
            return file.read()
        if not stat.S_ISFIFO(kind):
            raise OSError(errno.EINVAL, "it is neither a file nor a pipe")
        data = file.read(most + 1)
        if len(data) > most:
            raise OSError(errno.EFBIG, f"more than {most >> 20} MB came through the pipe")
        return data


def seeds_digest(seeds: Iterable[SeedTask]) -> str:
    """By which a run knows its seed tasks again."""
    return digest("seeds", {"tasks": [[s.id, s.instruction, s.input, s.output, s.held_out] for s in seeds]})


def _items(name: str, text: str) -> Iterable[tuple[int, dict[str, Any]]]:
    """Numbered objects of JSON lines or of one JSON array."""
    if not text.lstrip().startswith("["):
        yield from _rows(name, text, SeedFileError, _SEED_FIX)
        return
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SeedFileError(f"{name}: not a JSON array: {error}.", _SEED_FIX) from None
    for number, item in enumerate(parsed, 1):
        if not isinstance(item, dict):
            raise SeedFileError(f"{name}, item {number}: not a JSON object.", _SEED_FIX)
        yield number, item


def _read(path: str, own: str, what: str, refused: type[UsageError], fix: str) -> tuple[str, str]:
    """The text of a user's file, or of the shipped one for an empty `path`, and its name for messages."""
    try:
        data = read_given(path) if path else resources.files("minisheep.data").joinpath(own).read_bytes()
    except OSError as error:
        raise refused(f"The {what} {path} cannot be read: {error.strerror}.") from None
    name = path or f"minisheep's {what}"
    try:
        return data.decode("utf-8-sig"), name
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise refused(f"{name}, line {line}: not UTF-8 text.", fix) from None


def _rows(name: str, text: str, refused: type[UsageError], fix: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON lines, by line number."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise refused(f"{name}, line {number}: not JSON: {error}.", fix) from None
        if not isinstance(row, dict):
            raise refused(f"{name}, line {number}: not a JSON object.", fix)
        yield number, row


def _seeds_of(name: str, number: int, item: dict[str, Any]) -> list[SeedTask]:
    """One object in any of the formats. Self-Instruct's holds several instances of one instruction."""
    fix = 'A seed task needs "instruction" and "output" (or Self-Instruct\'s "instances"), both texts.'
    instances = item.get("instances", [item])
    if not isinstance(instances, list) or not instances or not all(isinstance(i, dict) for i in instances):
        raise SeedFileError(f"{name}, line {number}: no instances.", fix)
    seeds = []
    for instance in instances:
        values = [item.get("instruction"), instance.get("input") or "", instance.get("output")]
        if not all(isinstance(v, str) for v in values) or not values[0].strip() or not values[2].strip():
            raise SeedFileError(f"{name}, line {number}: an empty or missing instruction or output.", fix)
        held_out = item.get("held_out", False)
        if not isinstance(held_out, bool):
            raise SeedFileError(f"{name}, line {number}: held_out is neither true nor false.", fix)
        instruction, input_, output = (v.strip() for v in values)
        if input_.lower() in ("<noinput>", "(none)", "n/a"):
            input_ = ""
        own = item.get("id") if len(instances) == 1 else None
        content = {"instruction": instruction, "input": input_, "output": output}
        id_, kind = str(own or digest("seed", content)), str(item.get("kind", ""))
        seeds.append(SeedTask(id_, kind, instruction, input_, output, held_out))
    return seeds


def _hold_out(seeds: list[SeedTask]) -> list[SeedTask]:
    """The same tasks, `HELD_OUT_SHARE` of them held out; the choice depends on the task alone, not on the order."""
    ranked = sorted(seeds, key=lambda s: digest("held out", {"instruction": s.instruction}))
    chosen = {s.id for s in ranked[: int(len(seeds) * HELD_OUT_SHARE)]}
    return [replace(seed, held_out=seed.id in chosen) for seed in seeds]


def load_prompts(folder: str = "", language: str = "en") -> dict[str, str]:
    """The prompt texts by name; a file ``NAME.txt`` in `folder` replaces minisheep's own. With them stand the words of
    a ``labels.toml``, as it is written, where there is one.

    Raises `errors.SeedFileError` for a folder that does not exist, an unknown file or a missing placeholder.
    """
    own = resources.files("minisheep.data").joinpath(shipped("prompts", language))
    texts = {name: own.joinpath(f"{name}.txt").read_text(encoding="utf-8") for name in PLACEHOLDERS}
    if labels := _labels_text(folder, language)[0]:
        texts["labels"] = labels
    if not folder:
        return texts
    fix = f"Prompt files: {', '.join(f'{name}.txt' for name in PLACEHOLDERS)}, labels.toml."
    root = Path(folder)
    if not root.is_dir():
        raise SeedFileError(f"The prompts folder {folder} does not exist.", fix)
    for file in sorted(root.glob("*.txt")):
        if file.stem not in PLACEHOLDERS:
            raise SeedFileError(f"{file} replaces no prompt.", fix)
        try:
            texts[file.stem] = read_given(file).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SeedFileError(f"{file} cannot be read: {error}.", fix) from None
        missing = [p for p in sorted(PLACEHOLDERS[file.stem]) if f"{{{p}}}" not in texts[file.stem]]
        if missing:
            raise SeedFileError(f"{file} has no place for {', '.join(f'{{{p}}}' for p in missing)}.", fix)
    return texts


LABELS = "labels.toml"


def load_wording(folder: str = "", language: str = "en") -> Wording:
    """The words of a language: of ``labels.toml`` in `folder`, or of minisheep's own.

    Raises `errors.SeedFileError` for a file that cannot be read or has an entry that is none.
    """
    text, name = _labels_text(folder, language)
    try:
        table: Mapping[str, Any] = tomllib.loads(text)
        return wording_of(language, table)
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise SeedFileError(f"{name}: {error}.", "docs/guide/languages.md shows every entry.") from None


def _labels_text(folder: str, language: str) -> tuple[str, str]:
    """The text of the labels file and its name; both empty where there is none."""
    path = Path(folder) / LABELS if folder else None
    if path is not None and path.exists():
        return _read(str(path), "", "file of labels", SeedFileError, "Nothing was started. Mend this file.")
    own = shipped("prompts", language)
    found = resources.files("minisheep.data").joinpath(own, LABELS)
    return (found.read_text(encoding="utf-8"), f"minisheep's {own}/{LABELS}") if found.is_file() else ("", "")


_ITEM_FIX = (
    'A line looks like {"id": ..., "prompt": ..., "checks": [{"kind": "punctuation:no_comma", "arguments": {}}]}, or'
    ' like IFEval\'s {"key": ..., "prompt": ..., "instruction_id_list": [...], "kwargs": [...]}.'
)


def load_items(path: str = "", language: str = "en") -> list[VerifiableItem]:
    """The items of a file of JSON lines, in its order; minisheep's own for an empty `path`.

    Every argument is checked here, so that no verdict fails later. Raises `errors.ConfigError` naming the file and
    the line or the item.
    """
    text, name = _read(path, shipped("verifiable.jsonl", language), "evaluation file", ConfigError, _ITEM_FIX)
    items: dict[str, VerifiableItem] = {}
    for number, row in _rows(name, text, ConfigError, _ITEM_FIX):
        item = _item(f"{name}, line {number}", row)
        if item.id in items:
            raise ConfigError(f"{name}, line {number}: the id {item.id!r} stands twice.")
        for check in item.checks:
            resolve(check, item.prompt, f"{name}, item {item.id}")
        items[item.id] = item
    if not items:
        raise ConfigError(f"{name} holds no prompt.", _ITEM_FIX)
    return list(items.values())


def _item(where: str, row: dict[str, Any]) -> VerifiableItem:
    """One object in either format."""
    id_ = row.get("id", row.get("key"))
    prompt = row.get("prompt")
    if isinstance(id_, bool) or not isinstance(id_, str | int) or id_ == "":
        raise ConfigError(f"{where}: no id.", _ITEM_FIX)
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConfigError(f"{where}: no prompt.", _ITEM_FIX)
    checks = _ifeval_checks(where, row) if "instruction_id_list" in row else row.get("checks")
    if not isinstance(checks, list) or not checks:
        raise ConfigError(f"{where}: no constraints.", _ITEM_FIX)
    constraints = []
    for check in checks:
        kind, arguments = (check.get("kind"), check.get("arguments", {})) if isinstance(check, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(arguments, dict):
            raise ConfigError(f"{where}: a constraint needs a kind, and its arguments as an object.", _ITEM_FIX)
        constraints.append(Constraint(kind, arguments))
    return VerifiableItem(str(id_), prompt, tuple(constraints))


def _ifeval_checks(where: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    kinds, arguments = row["instruction_id_list"], row.get("kwargs")
    if not isinstance(kinds, list) or not isinstance(arguments, list) or len(kinds) != len(arguments):
        raise ConfigError(f"{where}: instruction_id_list and kwargs are not two lists of the same length.", _ITEM_FIX)
    return [{"kind": kind, "arguments": given} for kind, given in zip(kinds, arguments, strict=True)]
