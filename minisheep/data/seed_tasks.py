"""Reads seed tasks, prompts and verifiable prompts: those that minisheep ships, or a user's in their place.

What it ships for another language has that language's code in its name (``seeds.zh.jsonl``, ``prompts/zh``); where
there is none, English serves.
"""

from __future__ import annotations

import difflib
import errno
import os
import select
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from minisheep.data.seed_formats import SHAPES, Row, RowError, exchanges, foreign_kind, lines, rows, wide
from minisheep.errors import ConfigError, SeedFileError, UsageError
from minisheep.rules.identity import digest
from minisheep.rules.ifeval import Constraint, VerifiableItem, resolve
from minisheep.rules.plain_text import shell
from minisheep.rules.prompts import PLACEHOLDERS
from minisheep.rules.task_list import Task
from minisheep.rules.wording import Wording, wording_of

_SEED_FIX = "Nothing was started. Fix this, or give another --seeds file."
NAMED = 10
"""Faults of one file that a message names."""
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
    place: str = field(default="", compare=False)
    """Where it stands, for messages: ``mine.jsonl, line 7``."""

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
    """Seed tasks from a file in one of the shapes of `data.seed_formats`; minisheep's own for an empty `path`.

    Where no task says `held_out`, every third or so is held out, chosen by its id. Raises `errors.SeedFileError` naming
    the file and its first faults by line or item, and for a file with too few tasks.
    """
    data, name = read_file(path, shipped("seeds.jsonl", language), "seed file", SeedFileError)
    faults: dict[str, list[str]] = {}
    seeds: dict[str, SeedTask] = {}
    said: set[bool] = set()
    try:
        for row in rows(json_text(data, name, SeedFileError, _SEED_FIX)):
            try:
                for seed in _seeds_of(name, row):
                    if seed.id in seeds:
                        where = seeds[seed.id].place.removeprefix(f"{name}, ")
                        own = "id" in row.value and "instances" not in row.value
                        what = f"the id {seed.id!r}" if own else "the same task"
                        raise RowError(f"{what} stands twice, first in {where}")
                    seeds[seed.id] = seed
                if "held_out" in row.value:
                    said.add(row.value["held_out"])
            except RowError as error:
                faults.setdefault(str(error), []).append(row.place)
    except RowError as error:
        faults[str(error)] = []
    if faults:
        raise _faulty(name, faults)
    if not seeds:
        raise SeedFileError(f"{name} holds no seed task.", SHAPES)
    found = list(seeds.values()) if said else _hold_out(list(seeds.values()))
    if any(s.held_out for s in found) and not all(s.held_out for s in found):
        return found
    if said:
        only = "true, so none may be shown" if found[0].held_out else "false, so none is left to measure with"
        raise SeedFileError(
            f"{name}: all {len(found)} seed task(s) say held_out {only}. Nothing was started.",
            "Mark some with true and some with false, or leave held_out out: then minisheep chooses.",
        )
    raise SeedFileError(
        f"{name} has {len(found)} seed task(s), too few both to show and to hold out for evaluation.",
        "Give at least 6, or mark some with held_out true and some false.",
    )


def _faulty(name: str, faults: dict[str, list[str]]) -> SeedFileError:
    """faults: by what is wrong, the places where it is; none where it is the whole file."""
    told = [f"{_listed(places)}: {what}" if places else what for what, places in faults.items()]
    count = sum(max(1, len(places)) for places in faults.values())
    if count == 1:
        return SeedFileError(f"{name}{', ' if any(faults.values()) else ': '}{told[0]}.", f"{_SEED_FIX} {SHAPES}")
    left = sum(len(places) for places in list(faults.values())[NAMED:])
    more = f"; and {left} more" if left else ""
    return SeedFileError(
        f"{name} has {count} faults: {'; '.join(told[:NAMED])}{more}.",
        f"Nothing was started. Fix or delete these rows, or give another --seeds file. {SHAPES}",
    )


def _listed(places: list[str]) -> str:
    """``line 7``; ``lines 7, 8, 9 and 40 more``."""
    kind, numbers = places[0].split()[0], [place.split()[1] for place in places]
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return f"{kind}{'s' * (len(places) > 1)} {', '.join(numbers[:NAMED])}{more}"


MOST_OF_A_PIPE = 1 << 28
"""Bytes; a pipe does not tell how much there is to come."""
WAITED = 60.0
"""Seconds for the first of them."""


def read_given(path: str | Path, most: int = MOST_OF_A_PIPE) -> bytes:
    """The bytes of a regular file, or of a pipe of a bounded length: a device such as /dev/zero has no end, and would
    take all memory. Raises OSError, whose `strerror` says why nothing is read."""
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file")
    # Or a named pipe into which nobody writes would be waited for without end, and no word.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        kind = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(kind):
            return file.read() or b""  # None where the kernel has nothing to say, as in /proc/kmsg
        if not stat.S_ISFIFO(kind):
            raise OSError(errno.EINVAL, "it is neither a file nor a pipe")
        if not select.select([file], [], [], WAITED)[0]:
            raise OSError(errno.ETIMEDOUT, f"nothing came through the pipe within {WAITED:g} s")
        os.set_blocking(file.fileno(), True)
        data = file.read(most + 1)
        if len(data) > most:
            raise OSError(errno.EFBIG, f"more than {most >> 20} MB came through the pipe")
        return data


def seeds_digest(seeds: Iterable[SeedTask]) -> str:
    """By which a run knows its seed tasks again."""
    return digest("seeds", {"tasks": [[s.id, s.instruction, s.input, s.output, s.held_out] for s in seeds]})


_PIPES: dict[str, bytes] = {}
"""What came through pipes, which can be read only once."""


def is_pipe(path: str) -> bool:
    """Whether `path` can be read only once, as the file of ``--seeds <(COMMAND)``, or by this process alone, as
    ``--seeds /dev/stdin < FILE``."""
    once = path.startswith(("/dev/stdin", "/dev/fd/", "/proc/")) or (os.path.exists(path) and not os.path.isfile(path))
    return bool(path) and (path in _PIPES or once)


def read_bytes(path: str) -> bytes:
    """As `read_given`, but what came through a pipe is kept, and read again from there."""
    if path in _PIPES:
        return _PIPES[path]
    data = read_given(path)
    if is_pipe(path):
        _PIPES[path] = data
    return data


def read_file(path: str, own: str, what: str, refused: type[UsageError]) -> tuple[bytes, str]:
    """A user's file, or the shipped one for an empty `path`, and its name for messages; raises `refused`."""
    try:
        data = read_bytes(path) if path else resources.files("minisheep.data").joinpath(own).read_bytes()
    except (OSError, ValueError) as error:  # a ValueError for a path with a zero byte
        why = getattr(error, "strerror", None) or error
        raise refused(f"The {what} {path} cannot be read: {why}.", "Nothing was started. Check it.") from None
    return data, path or f"minisheep's {what}"


def json_text(data: bytes, name: str, refused: type[UsageError], fix: str) -> str:
    """As `decoded`, of a file of JSON; for one of another format raises `refused` with what converts it."""
    kind, command = foreign_kind(data, name)
    if kind:
        raise refused(
            f"{name} is a {kind} file, where JSON lines or a JSON array are read. Nothing was started.",
            f"Convert it: {command.replace('FILE', shell(name))}" if command else fix,
        )
    return decoded(data, name, refused, fix)


def decoded(data: bytes, name: str, refused: type[UsageError], fix: str) -> str:
    """The text of a file, without a byte order mark; raises `refused` with how to convert what is no UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        code = wide(data)
        convert = f"iconv -f {code or 'ENCODING'} -t UTF-8 {shell(name)} > utf8"
        convert += "" if code else " (ENCODING: CP1252, GB18030, SHIFT_JIS, ...)"
        raise refused(f"{name}, line {line}: not UTF-8 text.", f"{fix} To convert it: {convert}.".lstrip()) from None


def _seeds_of(name: str, row: Row) -> list[SeedTask]:
    """The tasks of one row. Raises `seed_formats.RowError`."""
    if isinstance(row.value, RowError):
        raise row.value
    item = row.value
    found = exchanges(item)
    held_out = item.get("held_out", False)
    if not isinstance(held_out, bool):
        raise RowError("held_out is neither true nor false")
    seeds = []
    for one in found:
        texts = one.instruction, one.input, one.output
        named = dict(zip(("instruction", "input", "output"), texts, strict=True))
        id_ = (item.get("id") if len(found) == 1 else None) or digest("seed", named)
        # Half a surrogate, which JSON can spell, is in no UTF-8, and names are passed to workers and printed.
        id_, kind = (str(text).encode("utf-8", "replace").decode() for text in (id_, item.get("kind", "")))
        seeds.append(SeedTask(id_, kind, *texts, held_out, f"{name}, {row.place}"))
    return seeds


def _hold_out(seeds: list[SeedTask]) -> list[SeedTask]:
    """The same tasks, `HELD_OUT_SHARE` of them held out; the choice depends on the task alone, not on the order."""
    ranked = sorted(seeds, key=lambda s: digest("held out", {"instruction": s.instruction}))
    chosen = {s.id for s in ranked[: int(len(seeds) * HELD_OUT_SHARE)]}
    return [replace(seed, held_out=seed.id in chosen) for seed in seeds]


def read_table(data: bytes, name: str, refused: type[UsageError], fix: str) -> dict[str, Any]:
    """What a TOML file holds; raises `refused`."""
    try:
        # Besides its own errors, tomllib passes on those of int() for thousands of digits and of deep nesting.
        return tomllib.loads(decoded(data, name, refused, fix))
    except (ValueError, RecursionError) as error:
        raise refused(f"{name} is not valid TOML: {error}.", fix) from None


def load_prompts(folder: str = "", language: str = "en") -> dict[str, str]:
    """The prompt texts by name; a file ``NAME.txt`` in `folder` replaces minisheep's own. With them stand the words of
    a ``labels.toml``, as it is written, where there is one.

    Raises `errors.SeedFileError` for a folder that does not exist, a .txt or .toml file of another name or a missing
    placeholder.
    """
    own = resources.files("minisheep.data").joinpath(shipped("prompts", language))
    texts = {name: own.joinpath(f"{name}.txt").read_text(encoding="utf-8") for name in PLACEHOLDERS}
    if labels := _labels_text(folder, language)[0]:
        texts["labels"] = labels
    if not folder:
        return texts
    known = [*(f"{name}.txt" for name in PLACEHOLDERS), LABELS]
    fix = f"Prompt files: {', '.join(known)}."
    root = Path(folder)
    if not root.is_dir():
        raise SeedFileError(f"The prompts folder {folder} does not exist.", fix)
    for file in sorted(root.iterdir()):
        # Hidden files are systems' and editors' own.
        if file.suffix.lower() not in (".txt", ".toml") or file.name == LABELS or file.name.startswith("."):
            continue
        if file.name not in known:
            near = difflib.get_close_matches(file.name.lower(), known, n=1)
            meant = f" Is {near[0]} meant?" if near else ""
            raise SeedFileError(f"{file} replaces no prompt and no labels.{meant}", fix)
        if not file.is_file():  # a pipe would be waited for
            raise SeedFileError(f"{file} is not a file.", fix)
        data, _ = read_file(str(file), "", "prompt file", SeedFileError)
        text = texts[file.stem] = decoded(data, str(file), SeedFileError, fix)
        needed, named = PLACEHOLDERS[file.stem], {name for name in _FILLED if f"{{{name}}}" in text}
        for odd, what in ((needed - named, "has no place for"), (named - needed, "is not filled in and keeps")):
            if odd:
                raise SeedFileError(f"{file} {what} {', '.join(f'{{{name}}}' for name in sorted(odd))}.", fix)
        if not text.strip():
            raise SeedFileError(f"{file} is empty.", fix)
    return texts


LABELS = "labels.toml"
_FILLED = frozenset[str]().union(*PLACEHOLDERS.values())


def load_wording(folder: str = "", language: str = "en") -> Wording:
    """The words of a language: of ``labels.toml`` in `folder`, or of minisheep's own.

    Raises `errors.SeedFileError` for a file that cannot be read or has an entry that is none.
    """
    text, name = _labels_text(folder, language)
    try:
        table: Mapping[str, Any] = tomllib.loads(text)
        return wording_of(language, table)
    except (ValueError, RecursionError) as error:
        raise SeedFileError(f"{name}: {error}.", "docs/guide/languages.md shows every entry.") from None


def _labels_text(folder: str, language: str) -> tuple[str, str]:
    """The text of the labels file and its name; both empty where there is none."""
    path = Path(folder) / LABELS if folder else None
    if path is not None and path.exists():
        data, name = read_file(str(path), "", "file of labels", SeedFileError)
        return decoded(data, name, SeedFileError, "Nothing was started. Fix this file."), name
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
    data, name = read_file(path, shipped("verifiable.jsonl", language), "evaluation file", ConfigError)
    text = decoded(data, name, ConfigError, _ITEM_FIX)
    items: dict[str, VerifiableItem] = {}
    for row in lines(text):
        where = f"{name}, {row.place}"
        if isinstance(row.value, RowError):
            raise ConfigError(f"{where}: {row.value}.", _ITEM_FIX)
        item = _item(where, row.value)
        if item.id in items:
            raise ConfigError(f"{where}: the id {item.id!r} stands twice.")
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
