"""`minisheep versus` as it is typed, against a stand-in for a judge on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from judge_stand_in import Answer, Asked, StandIn, fails, prefers, says, stand_in
from measured_runs import TASKS, measured_run
from tiny_runs import tiny_run

from minisheep.cli.main import main
from minisheep.run.folder import Lock, each_record
from minisheep.versus import outside_judge


class Said(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Said]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def run(*args: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["minisheep", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return measured_run(tmp_path / "run", [0.2, 0.4], answers=["short", "rather longer"]).path


def judged(server: StandIn, *more: str) -> list[str]:
    return ["--judge-url", server.url, "--judge-model-name", "stand-in", *more]


def test_the_better_answer_wins_whichever_place_it_stands_in(call: Call, run: Path) -> None:
    with stand_in(prefers(len)) as server:
        said = call("versus", str(run), *judged(server))
    assert (said.code, said.err) == (0, "")
    assert "100.0 % [100.0, 100.0]" in said.out and f"{len(TASKS)}, 0 (0 the same text), 0" in said.out
    assert len(server.asked) == 2 * len(TASKS)


def test_json_is_one_object(call: Call, run: Path) -> None:
    with stand_in(prefers(lambda answer: -len(answer))) as server:
        said = call("versus", str(run), "--json", *judged(server))
    found = json.loads(said.out)
    assert (found["event"], found["lost"], found["win_rate"]["value"]) == ("Judged", len(TASKS), 0.0)
    assert json.loads((run / "judged" / "stand-in-pair-round-1-base.json").read_text())["lost"] == len(TASKS)


def test_the_same_command_asks_nothing_twice(call: Call, run: Path) -> None:
    with stand_in(prefers(len)) as server:
        first = call("versus", str(run), *judged(server))
        second = call("versus", str(run), *judged(server))
        assert len(server.asked) == 2 * len(TASKS)
    assert first.out == second.out


def test_a_comparison_goes_on_where_the_judge_failed(call: Call, run: Path) -> None:
    better = prefers(len)

    def breaks(asked: Asked, number: int) -> Answer:
        return better(asked, number) if number <= 7 else fails(403, "quota used up")

    with stand_in(breaks) as server:
        said = call("versus", str(run), *judged(server, "--at-once", "2"))
        failed_at = len(server.asked)
    assert said.code == 3 and "quota used up" in said.err and "7 of 24" in said.err
    assert len(said.err.splitlines()) == 1
    path = run / "judged" / "stand-in-pair-round-1-base.jsonl"
    assert len(list(each_record(path, outside_judge.Judgement))) == 7 and failed_at >= 8
    with stand_in(better) as server:
        # The judge is another one if its address is.
        moved = path.read_text()
        assert call("versus", str(run), *judged(server)).code == 0
        assert len(server.asked) == 24 and path.read_text().startswith(moved)


def test_half_a_comparison_is_finished_by_the_same_judge(call: Call, run: Path) -> None:
    better = prefers(len)
    down = True

    def breaks(asked: Asked, number: int) -> Answer:
        return fails(403, "quota") if down and number > 7 else better(asked, number)

    with stand_in(breaks) as server:
        assert call("versus", str(run), *judged(server, "--at-once", "1")).code == 3
        assert len(server.asked) == 8
        down = False
        assert call("versus", str(run), *judged(server)).code == 0
        assert len(server.asked) == 8 + 17


def test_grades_are_asked_for_each_answer(call: Call, run: Path) -> None:
    def grade(asked: Asked, _number: int) -> Answer:
        return says(f"Fine.\nGrade: {8 if 'longer' in asked.prompt else 5}")

    with stand_in(grade) as server:
        said = call("versus", str(run), "--mode", "grade", *judged(server))
        assert len(server.asked) == 2 * len(TASKS)
    assert "8.00" in said.out and "5.00" in said.out and "+3.00" in said.out


def test_nonsense_from_the_judge_is_counted_and_is_no_result(call: Call, run: Path) -> None:
    with stand_in(lambda asked, number: says("I like both!")) as server:
        said = call("versus", str(run), *judged(server, "--limit", "4"))
        assert len(server.asked) == 8
    assert said.code == 0 and "not measured" in said.out and "WARNING" in said.out


def test_the_key_is_sent_and_kept_nowhere(call: Call, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-geheim")
    with stand_in(lambda asked, number: says(f"{asked.headers['Authorization']}\nVerdict: A")) as server:
        said = call("versus", str(run), *judged(server, "--judge-key-env", "MY_KEY"))
        assert server.asked[0].headers["Authorization"] == "Bearer sk-geheim"
    kept = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert b"sk-geheim" not in kept and "sk-geheim" not in said.out + said.err


def test_model_text_cannot_act_on_the_terminal(call: Call, run: Path) -> None:
    with stand_in(lambda asked, number: fails(400, "\x1b]0;owned\x07")) as server:
        said = call("versus", str(run), *judged(server))
    assert said.code == 3 and "\x1b" not in said.err and "\x07" not in said.err


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "no judge": ([], 2, "Without --judge-url there is no judge"),
    "no judge's name": (["--judge-url", "http://127.0.0.1:9/v1"], 2, "Without --judge-model-name"),
    "no address": (["--judge-url", "somewhere", "--judge-model-name", "x"], 2, "--judge-url"),
    "no key": (
        ["--judge-url", "http://a/", "--judge-model-name", "x", "--judge-key-env", "NONE"],
        2,
        "NONE holds no key",
    ),
    "round": (["--judge-url", "http://a/", "--judge-model-name", "x", "--round", "9"], 2, "--round 9"),
    "prompts": (["--judge-url", "http://a/", "--judge-model-name", "x", "--prompts", "none.jsonl"], 2, "none.jsonl"),
    "nobody there": (["--judge-url", "http://127.0.0.1:1/v1", "--judge-model-name", "x"], 3, "127.0.0.1:1"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_is_one_line(call: Call, run: Path, name: str) -> None:
    args, code, told = MISTAKES[name]
    said = call("versus", str(run), *args)
    assert (said.code, said.out) == (code, "") and told in said.err and len(said.err.splitlines()) == 1
    assert not list(run.glob("judged/*.json"))


def test_what_is_no_run_is_one_line(call: Call, tmp_path: Path) -> None:
    assert call("versus", str(tmp_path / "none")).code == 2


def test_two_comparisons_of_one_run_do_not_mix(call: Call, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_judge, "Lock", partial(Lock, wait_seconds=0.1))
    (run / "judged").mkdir()
    lock = Lock(run / "judged")
    try:
        with stand_in(prefers(len)) as server:
            said = call("versus", str(run), *judged(server))
    finally:
        lock.release()
    assert said.code == 75 and not server.asked


def test_ctrl_c_ends_at_once_and_says_what_is_stored(run: Path) -> None:
    better = prefers(len)
    with stand_in(lambda asked, number: better(asked, number) if number < 5 else Answer(hang=True)) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "minisheep", "versus", str(run), *judged(server, "--at-once", "1")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "no_proxy": "127.0.0.1"},
        )  # fmt: skip
        path = run / "judged" / "stand-in-pair-round-1-base.jsonl"
        _wait_for(lambda: len(server.asked) == 5 and path.read_text().count("\n") == 4)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130 and "4 of 24" in err and "Traceback" not in err


def test_other_prompts_are_answered_by_both_models_once(call: Call, tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", rounds=1)
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Name {n} rivers."}) + "\n" for n in range(3)))
    with stand_in(prefers(len)) as server:
        for _ in range(2):
            said = call("versus", str(tmp_path / "run"), "--json", "--prompts", str(prompts), *judged(server))
            assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    assert (found["pairs"], found["prompts"]) == (3, "mine.jsonl")
    for number in (0, 1):
        lines = (tmp_path / "run" / "judged" / f"answers-round-{number}.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["request"] for line in lines) == [f"Name {n} rivers." for n in range(3)]


def _wait_for(ready: Callable[[], bool]) -> None:
    import time

    for _ in range(400):
        try:
            if ready():
                return
        except FileNotFoundError:
            pass
        time.sleep(0.05)
    pytest.fail("it did not come to that within 20 s")


def test_a_reply_that_could_not_be_read_is_asked_for_again(call: Call, run: Path) -> None:
    def thinks_long(asked: Asked, number: int) -> Answer:
        return says(None) if asked.body["max_tokens"] < 100 else prefers(len)(asked, number)

    with stand_in(thinks_long) as server:
        words = ["versus", str(run), "--json", *judged(server)]
        assert json.loads(call(*words, "--judge-max-tokens", "8").out)["unreadable"] == len(TASKS)
        assert json.loads(call(*words).out)["unreadable"] == 0
        asked = len(server.asked)
        call(*words)
        assert len(server.asked) == asked == 4 * len(TASKS)


def test_a_reply_in_parts_is_read(call: Call, run: Path) -> None:
    def in_parts(asked: Asked, number: int) -> Answer:
        body = json.loads(prefers(len)(asked, number).body)
        message = body["choices"][0]["message"]
        parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": message["content"]}]
        return Answer(json.dumps({"choices": [{"message": message | {"content": parts}}]}).encode())

    with stand_in(in_parts) as server:
        assert json.loads(call("versus", str(run), "--json", *judged(server)).out)["won"] == len(TASKS)
