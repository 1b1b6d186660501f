"""`minisheep chat` as it is typed, on a fake run."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from chat_stand_ins import WorkerHere
from terminals import Terminal
from tiny_runs import tiny_run

from minisheep.chat import view, worker
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


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_model_that_takes_its_time_to_load_is_told_in_a_pipe_too(
    call: Call, run: str, form: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["chat", run, "--compare", "--round", "1", "--once", "Why?", *form]
    quick = call(*args)
    loads = worker.ChatHandler.do

    def slowly(*given: Any) -> None:
        time.sleep(0.3)
        loads(*given)

    monkeypatch.setattr(worker.ChatHandler, "do", slowly)
    monkeypatch.setattr(view, "QUIET_SECONDS", 0.05)
    slow = call(*args)
    assert slow.out == quick.out and quick.err == ""
    assert slow.err.startswith("Loading ") and "base and round 1" in slow.err and len(slow.err.splitlines()) == 1


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


ASKS = "\x1b[?2004h"
"""What a prompt tells the terminal first: to mark what is pasted."""


@pytest.fixture
def talk(run: str) -> Iterator[Terminal]:
    """The chat on a terminal of its own, at its first prompt."""
    environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    environment.pop("NO_COLOR", None)
    terminal = Terminal(("chat", run, "--round", "1"), (100, 30), environment)
    terminal.until(ASKS)
    yield terminal
    terminal.process.kill()
    terminal.process.wait()
    terminal.close()


def sent(terminal: Terminal, keys: str) -> str:
    """What a terminal shows from these keys to the next prompt."""
    terminal.press(keys)
    return terminal.until(ASKS)


def questions(path: Path) -> list[str]:
    (line,) = path.read_text().splitlines()
    return [message["content"] for message in json.loads(line)["messages"] if message["role"] == "user"]


def test_on_a_terminal_a_person_talks_and_leaves_by_ctrl_d(talk: Terminal, tmp_path: Path) -> None:
    saved = tmp_path / "talk.jsonl"
    assert "Loading smollm2-135m, round 1" in talk.seen and "Enter sends" in talk.seen
    shown = sent(talk, "Hello there\r")
    assert "Saved to" in sent(talk, f"/save {saved}\r") and "Temperature 2." in sent(talk, "/temp 2\r")
    talk.press("\x04")
    assert talk.end() == 0 and talk.as_before and "Traceback" not in talk.seen
    (line,) = saved.read_text().splitlines()
    question, answer = json.loads(line)["messages"]
    assert question["content"] == "Hello there" and answer["content"].split()[0] in shown


def test_pasted_and_continued_lines_are_one_message_and_the_up_key_brings_it_back(
    talk: Terminal, tmp_path: Path
) -> None:
    saved = tmp_path / "talk.jsonl"
    sent(talk, "\x1b[200~One\nTwo\r\nThree\x1b[201~\r")
    sent(talk, "A\x1b\rB\\\rC\r")
    sent(talk, "\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\r")
    sent(talk, f"/save {saved}\r")
    assert questions(saved)[:2] == ["One\nTwo\nThree", "A\nB\nC"] and len(questions(saved)) == 3
    assert questions(saved)[2] in questions(saved)[:2]


def test_an_answer_is_drawn_again_and_a_system_message_changed(talk: Terminal, tmp_path: Path) -> None:
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    assert "no message" in sent(talk, "/retry\r")
    sent(talk, "Hi\r")
    sent(talk, f"/save {before}\r")
    assert "is set" in sent(talk, "/system Be brief.\r")
    sent(talk, "/retry\r")
    sent(talk, f"/save {after}\r")
    first, second = (json.loads(path.read_text())["messages"] for path in (before, after))
    assert second[0] == {"role": "system", "content": "Be brief."} and second[1] == first[0] and len(second) == 3
    assert second[2] != first[1]
    assert "no system message" in sent(talk, "/system\r")
