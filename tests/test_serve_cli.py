"""`minisheep serve` as it is typed, on a fake run: a process of its own, and its mistakes."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from served import serve_process
from tiny_runs import tiny_run

from minisheep import api
from minisheep.cli import serve as cli
from minisheep.cli.main import main
from minisheep.loop import Phase
from minisheep.run.folder import Lock


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    made, _ = tiny_run(tmp_path_factory.mktemp("serve") / "run", per_round=4, eval_tasks=3, eval_answers=1)
    return made


def test_a_run_is_served_until_ctrl_c(run: api.Run, tmp_path: Path) -> None:
    with serve_process(tmp_path / "said", str(run.path), "--round", "2", "--slots", "3") as serving:
        assert re.search(r"Serving round 2 of .*, as asked", serving.text) and "Loading" in serving.text
        assert "3 answers at once" in serving.text
        with openai.OpenAI(base_url=serving.url, api_key="none") as client:
            assert [model.id for model in client.models.list()] == ["minisheep", "base", "round-1", "round-2"]
            asked = [{"role": "user", "content": "Why is the sky blue?"}]
            texts = {
                model: client.chat.completions.create(model=model, messages=asked, seed=1).choices[0].message.content  # type: ignore[arg-type]
                for model in ("minisheep", "base", "round-2")
            }
        assert texts["minisheep"] and "chat/completions minisheep" in serving.text
        # What is written twice is what the line says: its example runs as it stands.
        example = re.search(r"(from openai import.*)\n(  client.*\n.*\n.*)", serving.text)
        assert example
        code = f"{example[1]}\n" + "\n".join(line.strip() for line in example[2].splitlines())
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stdout.strip()
        serving.process.send_signal(signal.SIGINT)
        assert serving.ended() == 0 and serving.text.rstrip().endswith("Stopped.")


def test_sigterm_stops_a_server_with_a_key(run: api.Run, tmp_path: Path) -> None:
    with serve_process(tmp_path / "said", str(run.path), "--round", "base", MINISHEEP_API_KEY="s3cret") as serving:
        assert "the base model" in serving.text and "s3cret" not in serving.text
        with openai.OpenAI(base_url=serving.url, api_key="s3cret") as client:
            assert client.completions.create(model="minisheep", prompt="Hi", max_tokens=3).choices[0].text
        serving.process.send_signal(signal.SIGTERM)
        assert serving.ended() == 0


def test_a_worker_that_dies_ends_the_server_in_one_line(run: api.Run, tmp_path: Path) -> None:
    with serve_process(tmp_path / "said", str(run.path), "--round", "1") as serving:
        before = len(serving.text.splitlines())
        os.kill(serving.worker(), signal.SIGSEGV)
        assert serving.ended() == 3
        assert re.match("minisheep: The server failed: .*SIGSEGV", "\n".join(serving.text.splitlines()[before:]))


def test_a_run_that_goes_on_is_only_read_and_serves_what_it_has(tmp_path: Path) -> None:
    half, _ = tiny_run(tmp_path / "half", per_round=4, eval_tasks=3, eval_answers=1, until=Phase(2, "generate"))
    lock = Lock(half.path)
    before = {path: path.stat().st_mtime_ns for path in half.path.rglob("*")}
    try:
        with serve_process(tmp_path / "said", str(half.path), "--round", "last") as serving:
            assert "Serving round 1" in serving.text and "not finished (next: round 2, respond)" in serving.text
            assert "round-2" not in serving.text
    finally:
        lock.release()
    assert {path: path.stat().st_mtime_ns for path in half.path.rglob("*")} == before


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that a mistake is told in."""
    monkeypatch.setattr(sys, "argv", ["minisheep", "serve", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 2 and len(said.err.splitlines()) == 1 and not said.out
    return said.err


def test_mistakes_are_one_line(
    run: api.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, _ = tiny_run(tmp_path / "begun", per_round=4, eval_tasks=3, eval_answers=1, until=Phase(1, "respond"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        mistakes = {
            (str(run.path), "--round", "1", "--port", port): f"Port {port} of 127.0.0.1 is taken .* Try --port [1-9]",
            (str(run.path), "--round", "1", "--host", "192.0.2.1"): "--host 192.0.2.1 cannot be listened on",
            (str(run.path), "--round", "1", "--host", "no.such.invalid"): "is no address of this machine",
            (str(run.path), "--round", "7"): "--round 7",
            (str(begun.path), "--round", "last"): "has trained no round yet. Give --round base",
            (str(tmp_path),): "is not a run folder",
        }
        for args, told in mistakes.items():
            assert re.search(told, refused(monkeypatch, capsys, *args))


def test_a_missing_extra_says_what_to_type(
    run: api.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = refused(monkeypatch, capsys, str(run.path))
    assert "starlette and uvicorn" in said and "pip install" in said


def test_a_free_port_is_named_and_the_address_can_be_typed() -> None:
    with cli.listening("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(Exception, match=r"--port \d+") as refused:
            cli.listening("127.0.0.1", port)
        free = int(re.findall(r"--port (\d+)", str(refused.value))[0])
        with cli.listening("127.0.0.1", free) as second:
            assert second.getsockname()[1] == free
    told = cli.instructions("http://[::1]:80", ["minisheep", "base"], {"slots": 8, "context": 2048}, keyed=True)
    assert "Bearer $MINISHEEP_API_KEY" in told and "http://[::1]:80/v1/chat/completions" in told
