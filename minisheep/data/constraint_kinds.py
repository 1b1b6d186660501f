"""Reads the kinds of constraint that a run draws: minisheep's own file or a user's, and installed plug-ins.

A plug-in is an entry point of the group `GROUP`: an object with `kind`, `levels` or `arguments`, `wordings` and
`check`, and perhaps `edit` and `trained`. Reading it runs its code; so a run does that once, stores the outcome
(`Catalogue.to_dict`), and reads that (`stored_catalogue`) without importing anything.
"""

from __future__ import annotations

import difflib
import json
import re
import string
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from minisheep.data.languages import language_code
from minisheep.data.seed_tasks import read_file, read_table, shipped
from minisheep.errors import ConfigError
from minisheep.rules.constraint_edits import EDITS
from minisheep.rules.constraints import Catalogue, ConstraintKind
from minisheep.rules.ifeval import KINDS, REPEATS, Constraint, pattern, patterns, resolve, verify

GROUP = "minisheep.constraints"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(?::[a-z0-9][a-z0-9_-]*)?")
_MEANING = re.compile(r"[\\^$*+?{}()\[\]|]")
"""Characters that a regular expression does not read as themselves; a full stop stands for itself, too."""
_FIX = "Nothing was started. docs/guide/constraints.md shows a whole file."
_PLUGIN_FIX = "Nothing was started. Fix the plug-in or uninstall it; docs/guide/constraints.md shows a whole one."
_KEYS = frozenset({"trained", "levels", "wordings"})


def load_catalogue(path: str = "", *, plugins: bool = True, language: str = "") -> Catalogue:
    """The kinds of a user's TOML file, of minisheep's own for an empty `path`, and of installed plug-ins.

    The file may say something of plug-ins too, and then counts. IFEval's kinds that it does not name are never trained
    on. language: of the wordings; for an empty one what the file says, and English for minisheep's own. Raises
    `errors.ConfigError` naming the file, or the plug-in, and the first fault.
    """
    name, table = _table(path, language)
    known = {kind: _own(kind) for kind in KINDS} | (installed() if plugins else {})
    catalogue = _catalogue(name, table, known)
    for kind in KINDS:
        for arguments in (arguments for level in catalogue.kinds[kind].levels for arguments in level):
            for key, value in arguments.items():
                _hold_word(f"{name}: {kind}: {key}", value if KINDS[kind][1][key] in (pattern, patterns) else ())
    return catalogue


@cache
def default_trained_kinds() -> frozenset[str]:
    """The kinds that minisheep's own file trains on, for what is said of runs without constraints."""
    return load_catalogue(plugins=False).trained


def stored_catalogue(stored: Mapping[str, Any], name: str = "The stored constraints") -> Catalogue:
    """What `Catalogue.to_dict` stored. Functions of plug-ins are left out: `stages.checking.Checker` has them.

    Raises `errors.ConfigError` that begins with `name`.
    """
    kinds = stored.get("kinds")
    rows = kinds if isinstance(kinds, dict) else {}
    known = {kind: _own(kind) for kind in KINDS}
    for kind, row in rows.items():
        if isinstance(row, dict) and row.get("plugin"):
            ask = _elsewhere(kind)
            known[kind] = ConstraintKind(kind, True, (), (), ask, ask if row.get("edits") else None, plugin=True)
    plain = {kind: {key: row[key] for key in _KEYS & set(row)} for kind, row in rows.items() if isinstance(row, dict)}
    return _catalogue(name, {**stored, "kinds": plain if len(plain) == len(rows) else kinds}, known)


def installed() -> dict[str, ConstraintKind]:
    """The kinds of the installed plug-ins. Imports them; raises `errors.ConfigError` for one that cannot be used."""
    found: dict[str, ConstraintKind] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        kind = read_plugin(point)
        if kind.name in found or kind.name in KINDS:
            raise ConfigError(f"{_called(point)}: there is already a constraint {kind.name!r}.", _PLUGIN_FIX)
        found[kind.name] = kind
    return found


def find_plugin(kind: str) -> ConstraintKind:
    """The installed plug-in of a kind, whatever the others are like. Raises `errors.ConfigError` where it is gone."""
    refused = ""
    for point in entry_points(group=GROUP):
        try:
            found = read_plugin(point)
        except ConfigError as error:
            refused = refused or f" {error.message}"
        else:
            if found.name == kind:
                return found
    raise ConfigError(f"No plug-in of the constraint {kind} is installed here.{refused}", _PLUGIN_FIX)


def read_plugin(point: EntryPoint) -> ConstraintKind:
    """The kind of one entry point. Raises `errors.ConfigError`, whatever its code raises."""
    called = _called(point)
    try:
        # What its code prints would stand among the lines of --json.
        with redirect_stdout(sys.stderr):
            plugin = point.load()
            plugin = plugin() if isinstance(plugin, type) else plugin
            kind, check, edit = (getattr(plugin, key, None) for key in ("kind", "check", "edit"))
            row: dict[str, Any] = {
                "trained": getattr(plugin, "trained", True),
                "wordings": list(getattr(plugin, "wordings", [])),
            }
            levels = getattr(plugin, "levels", None)
            row["levels"] = json.loads(json.dumps([getattr(plugin, "arguments", [{}])] if levels is None else levels))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigError(f"{called} cannot be used: {reason}.", _PLUGIN_FIX) from None
    if not isinstance(kind, str) or not _NAME.fullmatch(kind):
        raise ConfigError(f'{called} needs `kind`, a name such as "mine:haiku", and has {kind!r}.', _PLUGIN_FIX)
    if not callable(check):
        raise ConfigError(f"{called} has no `check`, a function of an answer that returns True or False.", _PLUGIN_FIX)
    if edit is not None and not callable(edit):
        raise ConfigError(f"{called}: `edit` is no function.", _PLUGIN_FIX)
    blank = ConstraintKind(kind, True, (), (), check, edit, plugin=True)
    return _kind(f"{called}: {kind}", row, blank, _PLUGIN_FIX)


def _called(point: EntryPoint) -> str:
    package = f" of the package {point.dist.name}" if point.dist is not None else ""
    return f"The constraint plug-in {point.name!r}{package}"


def _own(name: str) -> ConstraintKind:
    """One of IFEval's kinds, as long as no file says that it is trained on."""

    def check(answer: str, **arguments: Any) -> bool:
        return verify(name, arguments, "", answer)

    return ConstraintKind(name, False, (), (), check, EDITS.get(name))


def _elsewhere(name: str) -> Any:
    def ask(answer: str, **arguments: Any) -> Any:
        raise RuntimeError(f"{name} is a plug-in's kind, which only a Checker may decide")

    return ask


def _table(path: str, language: str) -> tuple[str, dict[str, Any]]:
    """A file's name for messages, and what it holds."""
    code = language or "en"
    own = shipped("constraints.toml", code)
    if not path and code != "en" and own == "constraints.toml":
        raise ConfigError(
            f"minisheep has no constraints worded in {code!r}.",
            "Nothing was started. Give your own with --constraint-file, or say --constraints 0.",
        )
    data, name = read_file(path, own, "constraint file", ConfigError)
    table = read_table(data, name, ConfigError, _FIX)
    found = table.get("language", "en")
    try:
        found = table["language"] = language_code(found)
    except ValueError as error:
        raise ConfigError(f"{name}: language {found!r} {error}.", _FIX) from None
    if language and found != language:
        raise ConfigError(f"{name} words its constraints in {found!r}, and the run is in {language!r}.", _FIX)
    return name, table


def _catalogue(name: str, table: Mapping[str, Any], known: dict[str, ConstraintKind]) -> Catalogue:
    """The known kinds, each with what the table says of it."""
    rows, language = table.get("kinds"), table.get("language", "en")
    extra = sorted(set(table) - {"language", "words", "kinds"})
    if extra:
        raise ConfigError(f"{name}: there is no key {extra[0]!r}, only language, words and kinds.", _FIX)
    words = table.get("words", {})
    if not isinstance(words, dict) or not all(isinstance(said, str) and said for said in words.values()):
        raise ConfigError(f"{name}: [words] must say each word in the language, as text.", _FIX)
    if not isinstance(rows, dict) or not isinstance(language, str) or not language:
        raise ConfigError(f'{name} holds no [kinds."..."], or its language is no text.', _FIX)
    kinds = dict(known)
    for kind, row in rows.items():
        if kind not in known:
            near = difflib.get_close_matches(kind, known, n=1)
            raise ConfigError(
                f"{name}: there is no constraint {kind!r}{f' (nearest: {near[0]})' if near else ''}.",
                f"Nothing was started. There are {', '.join(known)}.",
            )
        if not isinstance(row, dict):
            raise ConfigError(f"{name}: {kind} is no table.", _FIX)
        kinds[kind] = _kind(f"{name}: {kind}", row, known[kind], _FIX)
    catalogue = Catalogue({kind: replace(known, words=words) for kind, known in kinds.items()}, language, words)
    if not catalogue.trained:
        raise ConfigError(f"{name}: no kind has trained = true, so there is nothing to draw.", _FIX)
    return catalogue


def _kind(where: str, row: Mapping[str, Any], known: ConstraintKind, fix: str) -> ConstraintKind:
    """A known kind with the trained, levels and wordings of `row`, each checked."""
    extra = sorted(set(row) - _KEYS)
    if extra:
        raise ConfigError(f"{where}: there is no key {extra[0]!r}, only {', '.join(sorted(_KEYS))}.", fix)
    trained = row.get("trained", True)
    if not isinstance(trained, bool):
        raise ConfigError(f"{where}: trained is neither true nor false.", fix)
    levels = row.get("levels", [[{}]] if trained else [])
    if not isinstance(levels, list) or not all(isinstance(level, list) and level for level in levels):
        raise ConfigError(f"{where}: levels must be a list of lists, each with at least one set of arguments.", fix)
    wordings = row.get("wordings", [])
    if not isinstance(wordings, list) or not all(isinstance(text, str) and text.strip() for text in wordings):
        raise ConfigError(f"{where}: wordings must be a list of sentences.", fix)
    if trained and (not levels or not wordings):
        raise ConfigError(f"{where} is trained on and has no {'wordings' if levels else 'levels'}.", fix)
    sets = [arguments for level in levels for arguments in level]
    if not all(isinstance(arguments, dict) for arguments in sets):
        raise ConfigError(f"{where}: a set of arguments must be a table, {{}} for none.", fix)
    if trained and known.name == REPEATS:
        raise ConfigError(f"{where} wants the instruction itself repeated, and cannot be trained on.", fix)
    if not known.plugin:
        for arguments in sets:
            resolve(Constraint(known.name, arguments), "", where.removesuffix(f": {known.name}"))
    try:
        json.dumps([levels, wordings], ensure_ascii=False).encode()
    except TypeError as error:
        raise ConfigError(f"{where}: an argument can be no date or time: {error}.", fix) from None
    except UnicodeEncodeError:
        raise ConfigError(
            f"{where}: a wording or an argument holds half a character, which no file can hold.", fix
        ) from None
    names = {frozenset(arguments) for arguments in sets}
    if len(names) > 1:
        raise ConfigError(f"{where}: all its sets of arguments must name the same ones.", fix)
    wanted = set().union(*names)
    for wording in wordings if sets else ():
        _hold_wording(where, wording, wanted, fix)
    return ConstraintKind(
        known.name,
        trained,
        tuple(map(tuple, levels)),
        tuple(text.strip() for text in wordings),
        known.check,
        known.edit,
        known.plugin,
    )


def _hold_word(where: str, words: Any) -> None:
    """Raise for a word that its check, a regular expression as IFEval's are, would not find as it is written."""
    for word in [words] if isinstance(words, str) else words:
        if odd := _MEANING.search(word):
            raise ConfigError(
                f"{where} {word!r} holds {odd[0]!r}, which means something else where answers are searched for it.",
                "Nothing was started. Ask for words of letters, digits and blanks.",
            )


def _hold_wording(where: str, wording: str, wanted: set[str], fix: str) -> None:
    """Raise where it does not name each argument, in braces and plainly."""
    try:
        parts = list(string.Formatter().parse(wording))
    except ValueError as error:
        raise ConfigError(f"{where}: the wording {wording!r} cannot be filled in: {error}.", fix) from None
    named = [name for _, name, *_ in parts if name is not None]
    if any(form or conversion for _, _, form, conversion in parts):
        raise ConfigError(f"{where}: the wording {wording!r} may hold plain {{argument}} only.", fix)
    odd = next((name for name in named if name not in wanted), None)
    if odd is not None:
        raise ConfigError(f"{where}: the wording {wording!r} names {{{odd}}}, which is no argument of it.", fix)
    missing = sorted(wanted - set(named))
    if missing:
        raise ConfigError(f"{where}: the wording {wording!r} has no place for {{{missing[0]}}}.", fix)
