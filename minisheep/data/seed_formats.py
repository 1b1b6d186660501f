"""Files of seed tasks as people have them: rows of JSON lines or of one JSON array, each in one of six shapes. Pure.

    {"instruction", "input", "output"}                   ours, Alpaca's; Dolly's "context" and "response" too
    {"instruction", "instances": [{"input", "output"}]}  Self-Instruct's
    {"prompt", "completion"}                             two texts, or two lists of messages
    {"messages": [{"role", "content"}]}                  OpenAI's chat format
    {"conversations": [{"from", "value"}]}               ShareGPT's

A seed task is one question and one answer, so a conversation of several turns is a fault, and a system message is left
out. A number is the text of that number; null and NaN (what pandas writes for an empty cell) are no text.
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
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
SHAPES = (
    'A seed task looks like {"instruction": ..., "input": ..., "output": ...}; files with "messages", "conversations",'
    ' "prompt" and "completion", or Self-Instruct\'s "instances" are read too (docs/guide/seeds.md).'
)


LONGEST = 1_000_000
"""Characters of one task, more than any context holds; a longer one would cost hours and memory first."""
_ARCHIVES = {  # what a file begins with: its format, and the command that unpacks it
    b"\x1f\x8b": ("gzip", "gunzip -c"),
    b"BZh": ("bzip2", "bunzip2 -c"),
    b"\xfd7zXZ\0": ("xz", "xz -dc"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "zstd -dc"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x -so"),
    b"PK\x03\x04": ("zip", "unzip -p"),
}


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
    """The rows of a file. Raises `RowError` for an array that is no JSON and for an object over several
    lines."""
    start = text.lstrip()
    if start.startswith("["):
        return _items(text)
    if re.match(r"\{\s*[\r\n]", start):
        raise RowError("one JSON object over several lines, where each line is to be a task, or all are one array")
    return lines(text)


def lines(text: str) -> Iterator[Row]:
    """The rows of JSON lines, blank lines left out."""
    for number, line in enumerate(re.split("\r\n|\r|\n", text), 1):
        line = line.strip().removeprefix("\ufeff")  # joined files have a mark in their middle
        if not line:
            continue
        try:
            value = json.loads(line)
            yield Row(f"line {number}", value if isinstance(value, dict) else RowError("not a JSON object"))
        except (ValueError, RecursionError) as error:
            yield Row(f"line {number}", RowError(f"not JSON: {json_fault(error)}"))


def _items(text: str) -> Iterator[Row]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"not a JSON array: {json_fault(error, whole=True)}") from None
    for number, value in enumerate(values, 1):
        yield Row(f"item {number}", value if isinstance(value, dict) else RowError("not a JSON object"))


def foreign_kind(data: bytes, name: str = "") -> tuple[str, str]:
    """The name of a format that is not read, and a command that converts it; two empty texts for any other. An Excel
    sheet is a zip by its bytes, and known by the end of the file's `name`."""
    start = 'python -c "import pandas, sys; d = pandas.'
    save = "; d.to_json('seeds.jsonl', orient='records', lines=True, force_ascii=False)\" FILE"
    if name.lower().endswith((".xlsx", ".xls", ".ods")) and data.startswith((b"PK", b"\xd0\xcf")):
        return "spreadsheet", f"{start}read_excel(sys.argv[1]){save}"
    for magic, (kind, unpack) in _ARCHIVES.items():
        if data.startswith(magic):
            return kind, f"{unpack} FILE > seeds.jsonl"
    if data.startswith(b"PAR1"):
        return "Parquet", f"{start}read_parquet(sys.argv[1]){save}"
    if data.startswith(b"ARROW1"):
        return "Feather (Arrow)", f"{start}read_feather(sys.argv[1]){save}"
    if data.startswith(b"version https://git-lfs"):
        return "Git LFS pointer", "git lfs pull -I FILE"
    if code := _wide(data):
        return code[:6], f"iconv -f {code} -t UTF-8 FILE > seeds.jsonl"
    first = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:4096].split(b"\n")[0]
    separator = "\\t" if first.count(b"\t") > first.count(b",") else ","
    columns = first.decode("utf-8", "replace").strip().replace('"', "").split("\t" if separator == "\\t" else ",")
    if len(columns) > 1 and not first.startswith((b"{", b"[")) and {"instruction", "prompt", "output"} & set(columns):
        return "CSV", f"{start}read_csv(sys.argv[1], sep='{separator}'){save}"
    return "", ""


def _wide(data: bytes) -> str:
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
    for name in ("messages", "conversations", "conversation"):
        if name in row and "instruction" not in row:
            return [_conversation(row[name], name)]
    if "prompt" in row and "instruction" not in row:
        answer = next((row[name] for name in ("completion", "response", "output") if name in row), None)
        if isinstance(row["prompt"], list) and isinstance(answer, list):
            return [_conversation([*row["prompt"], *answer], "prompt")]
        return [_exchange(row["prompt"], None, answer)]
    answer = row.get("output", row.get("response"))
    if "instruction" not in row or not {"output", "response"} & set(row):
        missing = " and ".join([*["instruction"] * ("instruction" not in row), *["output"] * (answer is None)])
        raise RowError(f"a missing {missing} (its keys: {', '.join(key[:30] for key in list(row)[:6]) or 'none'})")
    return [_exchange(row.get("instruction"), row.get("input", row.get("context")), answer)]


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
        role = str(message.get("role", message.get("from"))).lower()
        if role not in _ROLES:
            raise RowError(f"a message of the role {role[:30]!r}")
        said.append((_ROLES[role], _content(message.get("content", message.get("value")))))
    turns = [turn for turn in said if turn[0] != "system"]
    roles = [role for role, _ in turns]
    if roles != ["user", "assistant"]:
        if roles[:2] == ["user", "assistant"] and len(roles) > 2:
            raise RowError(f"a conversation of {roles.count('user')} turns; a seed task is one question and one answer")
        raise RowError(f"its {name} is not a question of the user and an answer of the assistant")
    return _exchange(turns[0][1], None, turns[1][1])


def _content(value: Any) -> str:
    """The text of a message, also where it is a list of parts."""
    if not isinstance(value, list):
        return _text(value, "message")
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        raise RowError("a message with parts that are no text")
    return "".join(part["text"] for part in value).strip()


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
