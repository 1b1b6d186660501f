"""Files of seed tasks as people have them: six shapes, all faults at once, and what is no text."""

from __future__ import annotations

import gzip
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from minisheep import api
from minisheep.data.seed_tasks import load_prompts, load_seeds, read_given
from minisheep.errors import RunMismatchError, SeedFileError, UsageError
from minisheep.models.registry import absolute_paths

ASKED, SAID = "Name a colour.", "Blue is one."
QUESTION, ANSWER = {"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}
SYSTEM = {"role": "system", "content": "Be brief."}
SHAPES: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": ASKED, "input": "", "output": SAID},
    "dolly": {"instruction": ASKED, "context": "", "response": SAID, "category": "open_qa"},
    "self-instruct": {"instruction": ASKED, "instances": [{"input": "<noinput>", "output": SAID}]},
    "completion": {"prompt": ASKED, "completion": SAID},
    "completion of messages": {"prompt": [QUESTION], "completion": [ANSWER]},
    "openai": {"messages": [SYSTEM, QUESTION, ANSWER]},
    "openai with parts": {"messages": [QUESTION | {"content": [{"type": "text", "text": ASKED}]}, ANSWER]},
    "sharegpt": {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]},
    "sharegpt with system": {"conversations": [{"from": "system", "value": "x"}, {"from": "human", "value": ASKED},
                                               {"from": "gpt", "value": SAID}]},
    "sharegpt with text": {"conversations": [{"from": "human ", "text": ASKED}, {"from": "bing", "text": SAID}]},
    "a joined table": {"messages": None, "instruction": ASKED, "input": float("nan"), "context": None, "output": None,
                       "response": SAID, "held_out": None, "kind": None},
    "a spreadsheet's columns": {"\ufeffInstruction": ASKED, " Output": SAID},
}  # fmt: skip
OTHERS = [{"instruction": f"Do {n}.", "output": f"Done {n}."} for n in range(8)]


def write(path: Path, rows: list[Any], array: bool = False) -> str:
    path.write_text(json.dumps(rows) if array else "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def fault(path: str) -> str:
    with pytest.raises(SeedFileError) as refused:
        load_seeds(path)
    assert refused.value.fix
    return refused.value.message


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_the_same_task(tmp_path: Path, shape: str, array: bool) -> None:
    (found,) = (
        s for s in load_seeds(write(tmp_path / "s", [SHAPES[shape], *OTHERS], array)) if "colour" in s.instruction
    )
    assert (found.instruction, found.input, found.output) == (ASKED, "", SAID)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": [QUESTION, ANSWER, QUESTION, ANSWER]}, "a conversation of 2 turns"),
        ({"conversations": [{"from": "human", "value": ASKED}]}, "question of the user and an answer"),
        ({"messages": [QUESTION, ANSWER | {"content": None}]}, "output"),
        ({"messages": [QUESTION | {"content": [{"type": "image_url"}]}, ANSWER]}, "parts that are no text"),
        ({"messages": [QUESTION | {"role": "tool"}, ANSWER]}, "'tool'"),
        ({"messages": [QUESTION, ANSWER | {"tool_calls": [{"id": "1"}]}]}, "a message that calls a tool"),
        ({"messages": [QUESTION, ANSWER, ANSWER]}, "not a question of the user and an answer of the assistant"),
        ({"instruction": ASKED, "output": SAID, "history": [["Hello.", "Good day."]]}, "a conversation with a history"),
        ({"instruction": ASKED, "input": True, "output": SAID}, "its input is true or false"),
        ({"instruction": ASKED, "input": [], "output": SAID}, "its input is a list"),
        ({"instruction": ASKED, "input": {}, "output": SAID}, "its input is an object"),
        ({"text": "only a text"}, "instruction and output"),
    ],
)
@pytest.mark.parametrize("array", [False, True])
def test_what_is_no_single_question_and_answer_is_named_by_its_number(
    tmp_path: Path, row: dict[str, Any], told: str, array: bool
) -> None:
    message = fault(write(tmp_path / "s", [*OTHERS, row], array))
    assert told in message and f"{'item' if array else 'line'} 9" in message


@pytest.mark.parametrize(
    "row", [{"prompt": ASKED, "response": SAID}, {"instruction": ASKED, "input": "", "output": SAID}]
)
def test_what_a_task_is_about_is_not_left_out(tmp_path: Path, row: dict[str, Any]) -> None:
    (found, *_) = load_seeds(write(tmp_path / "s", [row | {"context": "Of the sea."}, *OTHERS]))
    assert found.input == "Of the sea."


@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_and_objects_may_stand_one_after_another(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "s"
    path.write_text("\ufeff\ufeff" + "\n".join(json.dumps(row, indent=2) for row in OTHERS), encoding="utf-8")
    assert len(load_seeds(str(path))) == len(OTHERS)
    halves = (json.dumps(rows, indent=indent) for rows in (OTHERS[:3], [*OTHERS[3:], OTHERS[0]]))
    path.write_text("\n\ufeff".join(halves), encoding="utf-8")
    assert "item 9: the same task stands twice, first in item 1" in fault(str(path))


def test_names_of_tasks_can_be_written_anywhere(tmp_path: Path) -> None:
    rows = [row | {"id": f"\ud83d{number}", "kind": "\ud83d"} for number, row in enumerate(OTHERS)]
    assert {seed.id for seed in load_seeds(write(tmp_path / "s", rows))} == {f"?{number}" for number in range(8)}


def test_numbers_are_texts_and_empty_cells_are_none(tmp_path: Path) -> None:
    rows = [{"instruction": f"Is it even, {n}?", "input": n, "output": n} for n in (0, 7, 1.5)]
    cells = [
        {"instruction": f"Do {n}.", "input": cell, "output": "Done."} for n, cell in enumerate([float("nan"), None])
    ]
    path = write(tmp_path / "s", [*rows, *cells, *OTHERS[2:]])
    assert [s.input for s in load_seeds(path)][:5] == ["0", "7", "1.5", "", ""]
    assert load_seeds(path)[0].output == "0"


def test_all_faults_are_told_at_once_and_ten_of_them_named(tmp_path: Path) -> None:
    rows = [*OTHERS, *(row | {"output": ""} for row in OTHERS), *OTHERS[:5]]
    message = fault(write(tmp_path / "s", rows, array=True))
    assert "13 faults: items 9, 10, 11, 12, 13, 14, 15, 16: an empty or missing output; item 17: " in message
    assert "item 18: the same task stands twice, first in item 2" in message and "more" not in message


def test_the_same_fault_of_many_rows_is_told_once(tmp_path: Path) -> None:
    rows = [*OTHERS, *({"text": f"no task, {n}"} for n in range(500)), {"instruction": ASKED, "output": ""}]
    message = fault(write(tmp_path / "s", rows, array=False))
    numbers = ", ".join(str(n) for n in range(9, 19))
    assert f"501 faults: lines {numbers} and 490 more: a missing instruction and output" in message
    assert message.count("a missing instruction and output") == 1 and "line 509: an empty or missing output" in message
    twelve = [row | {"input": n} for row in OTHERS[:2] for n in range(12)]
    message = fault(write(tmp_path / "t", [*twelve, *twelve], array=True))
    assert "24 faults" in message and "and 14 more" in message


def test_an_end_of_answers_that_is_spelt_out_is_no_text_to_learn(tmp_path: Path) -> None:
    ends = ("</s>", "<|im_end|>\n", "\n###")
    ended = [row | {"output": f"{row['output']}{end}"} for row, end in zip(OTHERS[:3], ends, strict=True)]
    message = fault(write(tmp_path / "s", [*ended, *OTHERS[3:]]))
    assert "3 faults: line 1: its output ends in </s>" in message and "line 3: its output ends in ###" in message
    about = {"instruction": "Which token ends a turn of ChatML, <|im_end|> or </s>?", "output": "It is <|im_end|>"}
    html = {"instruction": "Strike the price out.", "output": "It costs <s>30 euros</s>"}
    assert len(load_seeds(str(write(tmp_path / "t", [about, html, *OTHERS])))) == 2 + len(OTHERS)


@pytest.mark.parametrize(("value", "told"), [(False, "none is left to measure"), (True, "none may be shown")])
def test_marks_that_are_all_the_same_say_so(tmp_path: Path, value: bool, told: str) -> None:
    message = fault(write(tmp_path / "s", [row | {"held_out": value} for row in OTHERS]))
    assert f"all 8 seed task(s) say held_out {str(value).lower()}" in message and told in message


@pytest.mark.parametrize(
    ("content", "kind", "command"),
    [
        (gzip.compress(b"{}", mtime=0), "gzip", "gunzip"),
        *(
            (b"BZh91AY&SY", "bzip2", "bunzip2"),
            (b"\xfd7zXZ\0\0\x04", "xz", "xz -dc"),
            (b"ARROW1\0\0", "Feather", "read_feather"),
        ),
        *((b"\x28\xb5\x2f\xfd\x04", "Zstandard", "zstd"), (b"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x")),
        *(
            ('[{"a": 1}]'.encode(code), code[:6].upper(), f"-f {code.upper()} ")
            for code in ("utf-16le", "utf-16be", "utf-32be")
        ),
        *(("{}".encode("utf-32"), "UTF-32", "-f UTF-32 "), ("{}".encode("utf-16"), "UTF-16", "-f UTF-16 ")),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS", "git lfs pull"),
        (b"PAR1....", "Parquet", "read_parquet"),
        (b"\xff\xff\xff\xff\x10\0", "datasets", "Dataset.from_file"),
        (b"a.jsonl".ljust(257, b"\0") + b"ustar", "tar", "tar -xOf"),
        (b"PK\x03\x04 xl/workbook.xml", "spreadsheet", "read_excel"),
        (b"Question;Answer\nWhy?;So.\n", "CSV", "sep=';'"),
        (b"instruction,input,output\nDo.,,Done.\n", "CSV", "sep=','"),
        (b"\xef\xbb\xbfinstruction\tinput\toutput\n", "CSV", "sep='\\t'"),
        ("{}".encode("utf-16"), "UTF-16", "iconv"),
    ],
)
def test_a_foreign_file_is_named_with_the_command_that_converts_it(
    tmp_path: Path, content: bytes, kind: str, command: str
) -> None:
    path = tmp_path / "my seeds"
    path.write_bytes(content)
    with pytest.raises(SeedFileError, match=kind) as refused:
        load_seeds(str(path))
    assert command in refused.value.fix and f"'{path}'" in refused.value.fix


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"<!DOCTYPE html>\n<title>Log in", "HTML"), (b"%PDF-1.7\n\xe2\xe3", "PDF"), (b"SQLite format 3\0", "binary")],
)
def test_what_nothing_converts_is_named_without_a_command(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(SeedFileError, match=kind) as refused:
        load_seeds(str(tmp_path / "s"))
    assert "iconv" not in refused.value.fix


def test_columns_in_the_words_of_a_task_are_no_table(tmp_path: Path) -> None:
    rows = [{"instruction": "Given text, output, answer", "output": "Yes."}, *OTHERS]
    assert len(load_seeds(write(tmp_path / "s", rows))) == 9


def test_a_byte_order_mark_is_ignored_wherever_it_is(tmp_path: Path) -> None:
    mark = "\ufeff"
    first, *others = (json.dumps(row) for row in OTHERS)
    (tmp_path / "s").write_text("\n".join([mark + first, mark + others[0], *others[1:]]), encoding="utf-8")
    assert [s.instruction for s in load_seeds(str(tmp_path / "s"))][:2] == ["Do 0.", "Do 1."]
    (tmp_path / "instructions.txt").write_text(f"{mark}Write tasks.", encoding="utf-8")
    assert load_prompts(str(tmp_path))["instructions"] == "Write tasks."


@pytest.mark.parametrize("name", ["/dev/zero", "/", "a\0b"])
def test_what_is_no_file_is_refused_and_does_not_fill_the_memory(name: str) -> None:
    assert "cannot be read" in fault(name)


@pytest.mark.skipif(not os.access("/proc/kmsg", os.R_OK), reason="only root may read the kernel's messages")
def test_a_file_that_has_nothing_to_say_yet_is_empty() -> None:
    read_given("/proc/kmsg")
    assert isinstance(read_given("/proc/kmsg"), bytes)


def test_a_pipe_into_which_nobody_writes_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minisheep.data.seed_tasks.WAITED", 0.2)
    os.mkfifo(tmp_path / "p")
    assert "nothing came through the pipe within 0.2 s" in fault(str(tmp_path / "p"))


QUICK: dict[str, Any] = {
    "engine": "fake", "trainer": "fake", "assess": "none", "exam_tasks": 0, "eval_answers": 0, "eval_verifiable": 0,
    "eval_tasks": 2, "per_round": 3, "shots": 3, "rounds": 1, "inline": True,
}  # fmt: skip


def pipe(path: Path, rows: list[Any]) -> str:
    """A named pipe through which the rows come once."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    threading.Thread(target=lambda: path.write_text(text), daemon=True).start()
    return str(path)


def test_seeds_from_a_pipe_are_read_once_and_kept_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, bytes] = {}
    monkeypatch.setattr("minisheep.data.seed_tasks._PIPES", kept)
    run = api.align(tmp_path / "run", seeds=pipe(tmp_path / "p", OTHERS), **QUICK)
    assert run.settings.seeds == str(tmp_path / "run" / "seeds-from-pipe.jsonl")
    kept.clear()
    again = api.align(tmp_path / "run", seeds=pipe(tmp_path / "p", OTHERS), **QUICK | {"rounds": 2})
    assert len(again.rounds) == 2
    kept.clear()
    with pytest.raises(RunMismatchError):
        api.align(tmp_path / "run", seeds=pipe(tmp_path / "p", OTHERS[::-1]), **QUICK)


def test_seeds_from_a_redirected_file_are_kept_since_a_worker_has_another_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minisheep.data.seed_tasks._PIPES", {})
    with open(write(tmp_path / "s", OTHERS), "rb") as file:
        run = api.align(tmp_path / "run", seeds=f"/dev/fd/{file.fileno()}", **QUICK)
    assert run.settings.seeds == str(tmp_path / "run" / "seeds-from-pipe.jsonl")
    assert absolute_paths({"seeds": "-"}) == {"seeds": "/dev/stdin"}


def test_an_address_is_no_file() -> None:
    with pytest.raises(UsageError, match=r"--seeds https://example.org/s.jsonl is an address"):
        api.align(seeds="https://example.org/s.jsonl", **QUICK)


def test_a_run_goes_on_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write(tmp_path / "one" / "mine.jsonl", OTHERS)
    monkeypatch.chdir(tmp_path / "one")
    run = api.align(tmp_path / "run", seeds="mine.jsonl", **QUICK)
    assert run.settings.seeds == str(tmp_path / "one" / "mine.jsonl")
    monkeypatch.chdir(tmp_path / "two")
    assert len(api.align(tmp_path / "run", rounds=2, inline=True).rounds) == 2
    # The same file by another path is the same setting.
    assert api.align(tmp_path / "run", seeds="../one/../one/mine.jsonl", **QUICK | {"rounds": 2}).next_phase is None


def test_a_path_that_no_record_can_hold_is_refused_before_there_is_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no UTF-8"):
        api.align(tmp_path / "run", seeds=os.fsdecode(b"caf\xe9.jsonl"), **QUICK)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_seed_file_of_the_users_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minisheep.data.seed_tasks._PIPES", {})
    (tmp_path / "run").mkdir()
    own = tmp_path / "run" / "seeds.jsonl"
    own.write_text("mine")
    with pytest.raises(UsageError, match="is not a run"):
        api.align(tmp_path / "run", seeds=pipe(tmp_path / "p", OTHERS), **QUICK)
    assert own.read_text() == "mine"


def test_a_spreadsheet_is_no_zip_to_unpack(tmp_path: Path) -> None:
    path = tmp_path / "tasks.xlsx"
    path.write_bytes(b"PK\x03\x04....")
    with pytest.raises(SeedFileError, match="spreadsheet") as refused:
        load_seeds(str(path))
    assert "read_excel" in refused.value.fix


def test_line_ends_of_old_macs_are_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes("\r".join(map(json.dumps, OTHERS)).encode())
    assert len(load_seeds(str(path))) == len(OTHERS)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"instruction": "Do it.", "output": "Done."},', "line 1: not JSON: extra data at character 45"),
        ('{"instruction": %s}' % ("9" * 5000), "line 1: not JSON: a number of thousands of digits"),
        ("[" * 100_000, "not JSON: nested too deeply"),
        ('{\n  "data": []\n}', "item 1: a missing instruction and output (its keys: data)"),
        ('{\n  "data": [\n}', "not JSON: expecting value at line 3"),
        (json.dumps([[1], 2]), "items 1, 2: not a JSON object"),
        (json.dumps({"question": "Why?", "answer": "So."}), "its keys: question, answer"),
        (json.dumps({"instruction": "x" * 2_000_000, "output": "Done."}), "2,000,005 characters"),
        (json.dumps({"instruction": "\u200b\ufeff", "output": "\0"}), "an empty or missing instruction and output"),
    ],
)  # fmt: skip
def test_a_fault_is_said_in_words_of_the_file(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "s"
    path.write_text(text, encoding="utf-8")
    assert told in fault(str(path))


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        ({"instruction": "B", "Instruction": None, "output": "o", "Output": ""}, ("B", "", "o")),
        ({"prompt": "p", "completion": "c", "output": "o"}, ("p", "", "c")),
        ({"instruction": "i", "output": "o", "history": "[]"}, ("i", "", "o")),
    ],
)
def test_keys_that_say_nothing_take_nothing_away(row: dict[str, Any], texts: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    others = [{"instruction": f"Task {n}", "output": f"Answer {n}"} for n in range(12)]
    file.write_text("\n".join(json.dumps(each) for each in [row, *others]))
    first = load_seeds(str(file))[0]
    assert (first.instruction, first.input, first.output) == texts
