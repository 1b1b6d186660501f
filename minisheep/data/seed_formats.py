"""Files of seed tasks as people have them: rows of JSON lines or of JSON arrays, each in one of six shapes. Pure.

    {"instruction", "input", "output"}                   ours, Alpaca's; Dolly's "context" and "response" too
    {"instruction", "instances": [{"input", "output"}]}  Self-Instruct's
    {"prompt", "completion"}                             two texts, or two lists of messages
    {"messages": [{"role", "content"}]}                  OpenAI's chat format
    {"conversations": [{"from", "value"}]}               ShareGPT's

A seed task is one question and one answer, so a conversation of several turns is a fault, and a system message is left
out. A number is the text of that number; null and NaN (what pandas writes for an empty cell) are no text, and a key
with one is as if it were not there, since a table that was joined from several has every key in every row.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from minisheep.rules.plain_text import json_fault
from minisheep.rules.templates import end_as_text

_NO_INPUT = ("<noinput>", "(none)", "n/a")
_INPUTS, _ANSWERS = ("input", "context"), ("output", "response", "completion")
_CHATS = ("messages", "conversations", "conversation")
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "claude", "bot", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
SHAPES = (
    'A seed task looks like {"instruction": ..., "input": ..., "output": ...}; files with "messages", "conversations",'
    ' "prompt" and "completion", or Self-Instruct\'s "instances" are read too (docs/guide/seeds.md).'
)


LONGEST = 1_000_000
"""Characters of one task, more than any context holds; a longer one would cost hours and memory first."""


def _by_python(read: str) -> str:
    save = "d.to_json('converted.jsonl', orient='records', lines=True, force_ascii=False)"
    return f'python -c "import {read.partition(".")[0]}, sys; d = {read}; {save}" FILE'


_FOREIGN = {  # what a file begins with: its format, and the command that converts it
    b"\x1f\x8b": ("gzip", "gunzip -c FILE > converted.jsonl"),
    b"BZh": ("bzip2", "bunzip2 -c FILE > converted.jsonl"),
    b"\xfd7zXZ\0": ("xz", "xz -dc FILE > converted.jsonl"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "zstd -dc FILE > converted.jsonl"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x -so FILE > converted.jsonl"),
    b"PK\x03\x04": ("zip", "unzip -p FILE > converted.jsonl"),
    b"PAR1": ("Parquet", _by_python("pandas.read_parquet(sys.argv[1])")),
    b"ARROW1": ("Feather (Arrow)", _by_python("pandas.read_feather(sys.argv[1])")),
    b"\xff\xff\xff\xff": ("datasets (Arrow)", _by_python("datasets.Dataset.from_file(sys.argv[1])")),
    b"version https://git-lfs": ("Git LFS pointer", "git lfs pull -I FILE"),
}
_COLUMNS = {"instruction", "prompt", "question", "text", "output", "response", "answer"}


class RowError(Exception):
    """What is wrong with one row, in words."""


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file."""

    place: str
    """``line 7`` or, in a JSON array, ``item 7``."""
    value: Any
    """The object, or why it cannot be read, as a `RowError`."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """The texts of one seed task; `input` may be empty."""

    instruction: str
    input: str
    output: str


def rows(text: str) -> Iterator[Row]:
    """The rows of a file as `_filled` has them: of JSON lines, of arrays, or of objects over several lines. Raises
    `RowError` for arrays and such objects that are no JSON."""
    several = re.match(r"[\s\ufeff]*(\[|\{\s*[\r\n])", text)
    for row in _values(text) if several else lines(text):
        yield Row(row.place, _filled(row.value))


def lines(text: str) -> Iterator[Row]:
    """The rows of JSON lines, blank lines left out."""
    for number, line in enumerate(re.split("\r\n|\r|\n", text), 1):
        line = line.strip().strip("\ufeff").strip()  # joined files have a mark in their middle
        if not line:
            continue
        try:
            value = json.loads(line)
            yield Row(f"line {number}", value if isinstance(value, dict) else RowError("not a JSON object"))
        except (ValueError, RecursionError) as error:
            yield Row(f"line {number}", RowError(f"not JSON: {json_fault(error)}"))


def _values(text: str) -> Iterator[Row]:
    """The objects of JSON arrays, or objects, one after another."""
    found: list[Any] = []
    place = 0
    while start := re.compile(r"[^\s,\ufeff]").search(text, place):
        try:
            value, place = json.JSONDecoder().raw_decode(text, start.start())
        except (ValueError, RecursionError) as error:
            raise RowError(f"not JSON: {json_fault(error, whole=True)}") from None
        found.extend(value if isinstance(value, list) else [value])
    return (Row(f"item {number}", value) for number, value in enumerate(found, 1))


def _filled(value: Any) -> Any:
    """A row without its empty cells, its keys as we write them (a spreadsheet's columns are ``Instruction``), or why it
    is none."""
    if not isinstance(value, dict):
        return value if isinstance(value, RowError) else RowError("not a JSON object")
    named: dict[str, Any] = {}
    for key, cell in value.items():
        name = key.strip().removeprefix("\ufeff").lower()
        # Of keys that differ in case alone, the first that holds anything.
        if cell is not None and cell == cell and named.get(name, "") == "":
            named[name] = cell
    return named


def foreign_kind(data: bytes, name: str = "") -> tuple[str, str]:
    """The name of a format that is not read, and a command that converts it, empty where there is none; two empty texts
    for any other. What its bytes do not tell is known by the end of the file's `name`."""
    name, text = name.lower(), data.removeprefix(b"\xef\xbb\xbf").lstrip()[:4096]
    sheet = name.endswith((".xlsx", ".ods")) or b"xl/workbook" in data[-65536:]
    if data.startswith(b"\xd0\xcf") or (sheet and data.startswith(b"PK")):
        return "spreadsheet", _by_python("pandas.read_excel(sys.argv[1])")
    if re.search(r"\.(tar(\.\w+)?|tgz)$", name) or data[257:262] == b"ustar":
        return "tar", "tar -xOf FILE > converted.jsonl"
    for magic, (kind, command) in _FOREIGN.items():
        if data.startswith(magic):
            return kind, command
    if code := wide(data):
        return code[:6], f"iconv -f {code} -t UTF-8 FILE > converted.jsonl"
    if re.match(rb"(?i)<(!doctype|html|\?xml)|%pdf", text):
        return "HTML, XML or PDF", ""
    if text.startswith((b"{", b"[")):
        return "", ""
    if b"\0" in text:
        return "binary", ""
    first = text.split(b"\n")[0].decode("utf-8", "replace").lower()
    separator = max(",\t;", key=first.count)
    columns = {column.strip('" \r') for column in first.split(separator)}
    if _COLUMNS & columns and len(columns) > 1:
        return "CSV", _by_python(f"pandas.read_csv(sys.argv[1], sep={separator!r})")
    return "", ""


def wide(data: bytes) -> str:
    """The encoding of two or four bytes a character that a text of JSON is in, with its mark or without; else empty."""
    if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    # Of the first four bytes, 1 for each that is not 0.
    shape = "".join("1" if byte else "0" for byte in data[:4])
    return {"1010": "UTF-16LE", "0101": "UTF-16BE", "1000": "UTF-32LE", "0001": "UTF-32BE"}.get(shape, "")


def exchanges(row: Mapping[str, Any]) -> list[Exchange]:
    """The tasks of one row: one, or those of Self-Instruct's instances. Raises `RowError`."""
    if "instances" in row:
        instances = row["instances"]
        if not isinstance(instances, list) or not instances or not all(isinstance(i, dict) for i in instances):
            raise RowError("no instances")
        return [_exchange(row.get("instruction"), i.get("input"), i.get("output")) for i in instances]
    for name in _CHATS:
        if name in row and "instruction" not in row:
            return [_conversation(row[name], name)]
    asked = row.get("instruction", row.get("prompt"))
    answer = _first(row, _ANSWERS if "instruction" in row else _ANSWERS[::-1])
    if isinstance(asked, list) and isinstance(answer, list):
        return [_conversation([*asked, *answer], "prompt")]
    if missing := [name for name, value in (("instruction", asked), ("output", answer)) if value is None]:
        keys = ", ".join(key[:30] for key in list(row)[:6]) or "none"
        raise RowError(f"a missing {' and '.join(missing)} (its keys: {keys})")
    if isinstance(row.get("history"), list) and row["history"]:
        raise RowError("a conversation with a history; a seed task is one question and one answer")
    return [_exchange(asked, _first(row, _INPUTS), answer)]


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """What stands under the first of `names` that holds anything, else under the first that is there."""
    found = [row[name] for name in names if name in row]
    return next((value for value in found if value != ""), found[0] if found else None)


def _exchange(instruction: Any, input: Any, output: Any) -> Exchange:
    texts = [_text(value, name) for value, name in ((instruction, "instruction"), (input, "input"), (output, "output"))]
    if not texts[0] or not texts[2]:
        missing = " and ".join(name for name, text in (("instruction", texts[0]), ("output", texts[2])) if not text)
        raise RowError(f"an empty or missing {missing}")
    if end := end_as_text(texts[2], f"{texts[0]} {texts[1]}"):
        raise RowError(f"its output ends in {end}, learned as text (if it is meant, name it in the instruction)")
    if (size := sum(map(len, texts))) > LONGEST:
        raise RowError(f"{size:,} characters, more than any model can see")
    return Exchange(texts[0], "" if texts[1].lower() in _NO_INPUT else texts[1], texts[2])


def _conversation(messages: Any, name: str) -> Exchange:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RowError(f"its {name} is not a list of messages")
    said: list[tuple[str, str]] = []
    for message in messages:
        role = str(message.get("role", message.get("from", "no role"))).strip().lower()
        if role not in _ROLES:
            raise RowError(f"a message of the role {role[:30]!r}")
        if message.get("tool_calls") or message.get("function_call"):
            raise RowError("a message that calls a tool")
        said.append((_ROLES[role], _content(_first(message, ("content", "value", "text")))))
    turns = [turn for turn in said if turn[0] != "system"]
    roles = [role for role, _ in turns]
    if roles != ["user", "assistant"]:
        if roles.count("user") > 1 and "assistant" in roles:
            raise RowError(f"a conversation of {roles.count('user')} turns; a seed task is one question and one answer")
        raise RowError(f"its {name} is not a question of the user and an answer of the assistant")
    return _exchange(turns[0][1], None, turns[1][1])


def _content(value: Any) -> str:
    """The text of a message, also where it is a list of parts."""
    if not isinstance(value, list):
        return _text(value, "message")
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        raise RowError("a message with parts that are no text")
    return _text("".join(part["text"] for part in value), "message")


def _text(value: Any, name: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        value = value.strip().removeprefix("\ufeff").strip()
        # Blanks without a width and control characters alone are nothing that can be asked or learned.
        return value if any(c.isprintable() and not c.isspace() for c in value) else ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    kind = {bool: "true or false", list: "a list", dict: "an object"}.get(type(value), "no text")
    raise RowError(f"its {name} is {kind}, not a text")
