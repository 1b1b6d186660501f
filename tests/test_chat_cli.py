"""`minisheep chat` as it is typed, on a fake run."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from chat_stand_ins import WorkerHere
from tiny_runs import tiny_run

from minisheep.chat import worker
from minisheep.cli.main import main


class Said(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Said]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    made, _ = tiny_run(tmp_path_factory.mktemp("chat") / "run", per_round=4, eval_tasks=3, eval_answers=1)
    return str(made.path)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setattr(worker, "WorkerProcess", WorkerHere)

    def run(*args: str, stdin: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "argv", ["minisheep", *args])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return run


def test_once_answers_and_ends(call: Call, run: str) -> None:
    said = call("chat", run, "--round", "1", "--once", "Why is the sky blue?")
    assert said.code == 0 and said.out.endswith("\n") and len(said.out) > 5
    assert call("chat", run, "--round", "1", "--once", "Why is the sky blue?").out == said.out


def test_each_line_of_a_pipe_is_answered(call: Call, run: str) -> None:
    said = call("chat", run, "--base", "--json", stdin=b"One?\n\n/reset\nbad \xff byte\n")
    found = [json.loads(line) for line in said.out.splitlines()]
    assert [f["message"] for f in found] == ["One?", "/reset", "bad \ufffd byte"]
    assert all(f["event"] == "Answer" and f["round"] == 0 and f["answer"] for f in found)
    assert said.code == 0


def test_both_sides_answer_where_they_are_compared(call: Call, run: str) -> None:
    said = call("chat", run, "--compare", "--round", "2", "--once", "Why?")
    assert said.out.startswith("base:\n") and "\nround 2:\n" in said.out
    found = [json.loads(line) for line in call("chat", run, "--compare", "--json", "--once", "Why?").out.splitlines()]
    assert [f["round"] for f in found] == [0, found[1]["round"]] and found[1]["round"] > 0


def test_the_limit_of_tokens_is_kept_and_said(call: Call, run: str) -> None:
    said = call("chat", run, "--base", "--max-tokens", "2", "--once", "Why?")
    assert len(said.out.split()) == 2 and "--max-tokens" in said.err


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no round": (["--round", "9"], "--round"),
    "two wishes": (["--base", "--compare"], "--compare"),
    "base twice": (["--compare", "--round", "base"], "--round N"),
    "too many tokens": (["--max-tokens", "2048"], "does not fit the run's context"),
    "too hot": (["--temperature", "9"], "9"),
    "long message": (["--once", "word " * 3000], "context is 2048"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_is_one_line(call: Call, run: str, name: str) -> None:
    args, told = MISTAKES[name]
    said = call("chat", run, *(args if "--once" in args else [*args, "--once", "Hi"]))
    assert (said.code, said.out.strip()) == (2, "") and told in said.err and len(said.err.splitlines()) == 1


def test_what_is_no_run_is_one_line(call: Call, tmp_path: Path) -> None:
    said = call("chat", str(tmp_path), "--once", "Hi")
    assert said.code == 2 and len(said.err.splitlines()) == 1


def test_on_a_terminal_a_person_talks_and_leaves_by_ctrl_d(run: str, tmp_path: Path) -> None:
    saved = tmp_path / "talk.jsonl"
    shown, code = typed(run, ["Hello there", f"/save {saved}", "/temp 2", "\x04"])
    assert code == 0 and "Temperature 2." in shown and "Saved to" in shown and "Traceback" not in shown
    (line,) = saved.read_text().splitlines()
    question, answer = json.loads(line)["messages"]
    assert question["content"] == "Hello there"
    assert answer["content"].split()[0] in shown


def typed(run: str, lines: list[str]) -> tuple[str, int]:
    """What a terminal shows while `lines` are typed, each at the prompt, and how the command ended."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "minisheep", "chat", run, "--round", "1"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        for number, line in enumerate(lines, 1):
            deadline = time.monotonic() + 30
            while shown.count(b"you> ") < number and time.monotonic() < deadline:
                shown += _read(ours)
            os.write(ours, line.encode() if line == "\x04" else f"{line}\n".encode())
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            more = _read(ours)
            shown += more
            if not more and process.poll() is not None:
                break
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return shown.decode("utf-8", "replace"), process.returncode


def _read(handle: int) -> bytes:
    if not select.select([handle], [], [], 0.1)[0]:
        return b""
    try:
        return os.read(handle, 1 << 16)
    except OSError:
        # The other end of a terminal that is gone.
        return b""
