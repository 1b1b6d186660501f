"""A chat with the fake engine: what is asked, what is kept, and what Ctrl-C and a crash leave standing."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_stand_ins import DEADLY, SLOW, STUCK, WorkerHere
from tiny_runs import tiny_run

from minisheep import api
from minisheep.api import resolve_round
from minisheep.chat import view
from minisheep.chat import worker as worker_module
from minisheep.chat.session import Session
from minisheep.chat.view import PlainScreen, sides
from minisheep.chat.worker import ChatClient
from minisheep.engines.base import EngineInfo, GenerateRequest
from minisheep.engines.fake_engine import FakeEngine, text_of
from minisheep.errors import UsageError, WorkerError
from minisheep.rules.templates import Template


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return tiny_run(tmp_path_factory.mktemp("chat") / "run", per_round=4, eval_tasks=3, eval_answers=1)[0]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "WorkerProcess", WorkerHere)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, here: None) -> list[str]:
    """The prompts that an engine gets, which answers how many words each has."""
    prompts: list[str] = []

    class Echo(FakeEngine):
        @property
        def info(self) -> EngineInfo:
            return EngineInfo("fake", "echo", 1, 60)

    def reply(request: GenerateRequest) -> str:
        prompts.append(text_of(request.prompt))
        return f"{len(prompts[-1].split())} words"

    monkeypatch.setattr(worker_module, "open_engine", lambda settings, gguf: Echo(reply=reply))
    return prompts


@pytest.fixture
def unruly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process that is slow or dies where it is asked to."""
    monkeypatch.setattr(worker_module, "WORKER", "chat_stand_ins:UnrulyHandler")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))


def conversed(run: api.Run, lines: list[Any], session: Session) -> tuple[Session, str, str]:
    """What a person who types `lines` (or presses Ctrl-C: an exception) sees, and what is remembered."""
    out, err, typed = io.StringIO(), io.StringIO(), iter(lines)

    def read() -> str:
        line = next(typed, EOFError())
        if isinstance(line, BaseException):
            raise line
        return str(line)

    with ChatClient(run.path, lambda event: None) as client:
        session = view.converse(
            session,
            client,
            PlainScreen(out, err),
            read,
            lambda told: resolve_round(run, told, run.trained, flag="/round", on_progress=err.write),
        )
    return session, out.getvalue(), err.getvalue()


def test_a_conversation_is_asked_in_the_runs_template(run: api.Run, asked: list[str]) -> None:
    session, out, _ = conversed(run, ["One two?", "Three?"], Session((1,), 0.7, 50))
    assert asked[0] == "Instruction: One two?\nResponse: "
    assert asked[1] == "Instruction: One two?\nResponse: 4 words\n\nInstruction: Three?\nResponse: "
    assert out == "4 words\n9 words\n" and len(session.turns) == 2


def test_a_reset_forgets_what_was_said(run: api.Run, asked: list[str]) -> None:
    conversed(run, ["One?", "/reset", "Two?"], Session((1,), 0.7, 50))
    assert asked[1] == "Instruction: Two?\nResponse: "


def test_the_oldest_turns_are_left_out_where_the_context_is_full_and_that_is_said(
    run: api.Run, asked: list[str]
) -> None:
    session, _, err = conversed(run, [f"{n} {'word ' * 15}" for n in range(4)], Session((1,), 0.7, 50))
    assert "0 word" in asked[1] and "0 word" not in asked[3] and asked[3].count("Instruction") == 2
    assert "2" in err and len(session.turns) == 4


def test_a_message_that_does_not_fit_is_told_and_the_chat_goes_on(run: api.Run, asked: list[str]) -> None:
    session, out, err = conversed(run, ["word " * 80, "Two?"], Session((1,), 0.7, 50))
    assert "60" in err and out.strip() == "3 words" and len(session.turns) == 1


def test_a_system_message_comes_first(run: api.Run, asked: list[str]) -> None:
    conversed(run, ["One?"], Session((1,), 0.7, 50, system="Be brief."))
    assert asked[0] == "Be brief.\n\nInstruction: One?\nResponse: "


def test_commands_are_obeyed_and_mistakes_told(run: api.Run, here: None, tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    lines = ["/temp 0", "/temp hot", "/round 2", "/round 7", "/help", "/nothing", f"/save {path}", "Hi"]
    lines += [f"/save {path}", f"/save {path}", "/quit", "never read"]
    session, out, err = conversed(run, lines, Session((1,), 0.7, 50))
    assert (session.rounds, session.temperature, len(session.turns)) == ((2,), 0.0, 1)
    for told in ("/temp takes", "Round 2 from here", "/round 7:", "Ctrl-D", "no /nothing", "nothing to save", "exists"):
        assert told in err
    (line,) = path.read_text().splitlines()
    assert [m["content"] for m in json.loads(line)["messages"]] == ["Hi", out.rstrip("\n")]


def test_a_comparison_answers_with_both_from_one_load(
    run: api.Run, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[FakeEngine] = []
    adapters: list[Any] = []

    class Watched(FakeEngine):
        def set_adapter(self, adapter: Path | None) -> None:
            adapters.append(adapter and adapter.parent.name)
            super().set_adapter(adapter)

    def load(settings: object, gguf: object) -> FakeEngine:
        loaded.append(Watched())
        return loaded[-1]

    monkeypatch.setattr(worker_module, "open_engine", load)
    session, out, _ = conversed(run, ["One?", "Two?"], Session((0, 2), 0.7, 50))
    assert len(loaded) == 1 and adapters == ["round-2", None, "round-2"]
    assert out.startswith("base:\n") and out.count("round 2:\n") == 2
    base, aligned = session.turns[0].answers
    assert base.text != aligned.text


def test_an_adapter_is_loaded_once_for_many_answers(run: api.Run, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, adapters = FakeEngine(), []
    monkeypatch.setattr(engine, "set_adapter", adapters.append)
    monkeypatch.setattr(worker_module, "open_engine", lambda settings, gguf: engine)
    conversed(run, ["One?", "Two?", "Three?"], Session((1,), 0.7, 50))
    assert len(adapters) == 1


def test_ctrl_c_at_the_prompt_leaves_nothing_and_ctrl_d_leaves(run: api.Run, here: None) -> None:
    session, _, err = conversed(run, [KeyboardInterrupt(), "Hi", EOFError()], Session((1,), 0.7, 50))
    assert "Ctrl-D leaves" in err and len(session.turns) == 1


def test_a_line_of_a_pipe_is_a_message_whatever_it_begins_with(run: api.Run, asked: list[str]) -> None:
    out = io.StringIO()
    with ChatClient(run.path, lambda event: None) as client:
        view.pipe(Session((0,), 0.7, 50), client, PlainScreen(out, io.StringIO()), ["/save x\n", "\n", "Hi\n"])
    assert "/save x" in asked[0] and len(asked) == 2 and out.getvalue().count("\n") == 2
    assert not Path("x").exists()


def test_a_template_for_one_turn_shows_no_history(
    run: api.Run, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from minisheep.rules.templates import Conversation

    once = Conversation(Template("model", "<u>", "<a>", "</a>"))
    monkeypatch.setattr(worker_module, "conversation_of", lambda model: once)
    _, _, err = conversed(run, ["One?", "Two?"], Session((1,), 0.7, 50))
    assert asked[1] == "<u>Two?<a>" and "left out" not in err
    with ChatClient(run.path, lambda event: None) as client, pytest.raises(UsageError, match="system"):
        client.open("Be brief.")


def test_a_chat_writes_nothing_into_the_run(run: api.Run, here: None) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(run.path.rglob("*"))}

    before = state()
    conversed(run, ["Hi", "/round base", "Ho"], Session((2,), 0.7, 50))
    assert state() == before


def test_a_run_that_was_never_prepared_has_no_model(tmp_path: Path, here: None) -> None:
    from measured_runs import measured_run

    made = measured_run(tmp_path / "run", [0.2])
    (made.path / "model.json").unlink()
    with ChatClient(made.path, lambda event: None) as client, pytest.raises(UsageError):
        client.open("")


# Which model answers


def test_the_best_round_answers_and_any_other_can(run: api.Run) -> None:
    assert sides(run, None, base=False, compare=False) == (run.best,)
    assert sides(run, "1", base=False, compare=False) == (1,)
    assert sides(run, "last", base=False, compare=True) == (0, 2)
    assert sides(run, None, base=True, compare=False) == (0,)


def test_where_the_base_is_best_a_comparison_takes_the_last_round(
    run: api.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.Run, "best", 0)
    assert sides(run, None, base=False, compare=False) == (0,)
    assert sides(run, None, base=False, compare=True) == (0, 2)


@pytest.mark.parametrize(
    ("round", "base", "compare"), [("3", False, False), ("x", False, True), ("1", True, False), ("base", False, True)]
)
def test_a_model_that_is_not_there_is_a_users_mistake(run: api.Run, round: str, base: bool, compare: bool) -> None:
    with pytest.raises(UsageError):
        sides(run, round, base=base, compare=compare)


def test_a_run_without_a_trained_round_offers_its_base(tmp_path: Path) -> None:
    from measured_runs import measured_run

    made = measured_run(tmp_path / "run", [0.2])
    assert sides(made, None, base=False, compare=False) == (0,)
    with pytest.raises(UsageError):
        sides(made, "1", base=False, compare=False)


# A worker in a process of its own


def pressing(*after: float) -> Callable[[str], None]:
    """Hears the parts of an answer; at the third it presses Ctrl-C, so many seconds later each time."""
    heard: list[str] = []

    def hear(part: str) -> None:
        heard.append(part)
        if len(heard) == 3:
            for seconds in after:
                threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()

    return hear


def test_ctrl_c_stops_the_answer_and_not_the_worker(run: api.Run, unruly: None) -> None:
    session = Session((1,), 0.7, 50)
    with ChatClient(run.path, lambda event: None) as client:
        client.open("")
        worker = client._worker
        with client.stoppable():
            found = client.answer(session.job(1, SLOW), pressing(0))
        assert found.finish == "stopped" and found.text.startswith("0 1 2 ") and " 900 " not in found.text
        assert client.answer(session.job(1, "Hi"), lambda part: None).finish in ("end", "length")
        assert client._worker is worker


def test_ctrl_c_before_the_worker_has_begun_stops_the_answer_too(run: api.Run, unruly: None) -> None:
    session = Session((1,), 0.7, 50)
    with ChatClient(run.path, lambda event: None) as client:
        client.open("")
        with client.stoppable():
            os.kill(os.getpid(), signal.SIGINT)
            found = client.answer(session.job(1, SLOW), lambda part: None)
        assert found.finish == "stopped" and " 900 " not in found.text


def test_ctrl_c_again_ends_the_worker_and_the_chat_goes_on(run: api.Run, unruly: None) -> None:
    session = Session((1,), 0.7, 50)
    with ChatClient(run.path, lambda event: None) as client:
        client.open("")
        begun = time.monotonic()
        with client.stoppable():
            found = client.answer(session.job(1, STUCK), pressing(0, 0.5))
        assert found.finish == "stopped" and found.text == "0 1 2 " and time.monotonic() - begun < 20
        assert client.answer(session.job(1, "Hi"), lambda part: None).text
        log = client._log
    assert not log.exists()


def test_a_crash_of_native_code_is_told_and_the_next_message_answered(run: api.Run, unruly: None) -> None:
    lines = ["Hi", DEADLY, "Ho"]
    session, _, err = conversed(run, lines, Session((1,), 0.7, 50))
    assert "SIGSEGV" in err and "Traceback" not in err
    assert [turn.user for turn in session.turns] == ["Hi", "Ho"]
    log = Path(err.split("Its last words are in ")[1].splitlines()[0].rstrip("."))
    assert log.exists()
    log.unlink()


def test_who_hears_no_more_ends_the_worker(run: api.Run, unruly: None) -> None:
    def gone(part: str) -> None:
        raise BrokenPipeError

    with ChatClient(run.path, lambda event: None) as client:
        client.open("")
        worker = client._worker
        with pytest.raises(BrokenPipeError):
            client.answer(Session((1,), 0.7, 50).job(1, SLOW), gone)
        assert worker is not None and worker._process.returncode == -signal.SIGKILL


def test_without_a_person_a_crash_is_an_error(run: api.Run, unruly: None) -> None:
    with ChatClient(run.path, lambda event: None) as client, pytest.raises(WorkerError):
        view.pipe(Session((1,), 0.7, 50), client, PlainScreen(io.StringIO(), io.StringIO()), [DEADLY])
    client._log.unlink()
