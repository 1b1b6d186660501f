"""What a chat remembers, and what a person can type: pure."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisheep.chat import session as chat_session
from minisheep.chat.session import ChatAnswer, Command, Session, left_out
from minisheep.chat.view import save
from minisheep.errors import UsageError
from minisheep.rules.templates import Message


def answer(round: int, text: str) -> ChatAnswer:
    return ChatAnswer(round, text, "end", 1)


BOTH = Session((0, 2), 0.7, 100).after("One?", [answer(0, "base one"), answer(2, "two one")])


def rounds(told: str) -> int:
    if told not in ("base", "1", "2"):
        raise UsageError(f"no {told}")
    return 0 if told == "base" else int(told)


def test_each_model_knows_its_own_answers() -> None:
    assert [m["content"] for m in BOTH.messages(0, "Two?")] == ["One?", "base one", "Two?"]
    assert [m["content"] for m in BOTH.messages(2, "Two?")] == ["One?", "two one", "Two?"]
    assert [m["role"] for m in BOTH.messages(2, "Two?")] == ["user", "assistant", "user"]


def test_a_round_that_joins_late_goes_on_from_what_was_answered() -> None:
    assert [m["content"] for m in BOTH.messages(1, "Two?")] == ["One?", "base one", "Two?"]


def test_a_message_that_nobody_answered_is_forgotten() -> None:
    assert BOTH.after("Two?", []).turns == BOTH.turns


def test_the_same_question_after_a_reset_is_another_draw() -> None:
    again, _ = chat_session.obey(BOTH, Command("reset"), rounds)
    assert again.turns == () and again.job(0, "One?")["number"] == 1
    assert Session((0,), 0.7, 100).job(0, "One?")["number"] == 0


def test_what_is_saved_is_messages_of_each_model() -> None:
    session = Session((0, 2), 0.7, 100, system="Be brief.").after("1 \ud800", [answer(0, "b"), answer(2, "t")])
    first, second = (json.loads(line) for line in session.saved().splitlines())
    assert first["round"] == 0 and second["round"] == 2
    assert [m["role"] for m in first["messages"]] == ["system", "user", "assistant"]
    assert [m["content"] for m in second["messages"]] == ["Be brief.", "1 \ud800", "t"]


def test_saving_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    assert str(path) in save(BOTH, str(path))
    before = path.read_text()
    with pytest.raises(UsageError):
        save(BOTH.after("Two?", [answer(0, "b")]), str(path))
    assert path.read_text() == before and len(before.splitlines()) == 2


@pytest.mark.parametrize("name", ["", "no/such/folder/x", "a\0b", "."])
def test_what_cannot_be_saved_is_a_users_mistake(name: str) -> None:
    with pytest.raises(UsageError):
        save(BOTH, name)


def test_there_is_nothing_to_save_before_the_first_answer(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        save(Session((0,), 1.0, 10), str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("Why?", "Why?"),
        ("  Why?\n", "Why?"),
        ("", ""),
        ("//etc/passwd is what?", "/etc/passwd is what?"),
        ("/temp 0.7", Command("temp", "0.7")),
        ("/save  my talk.jsonl ", Command("save", "my talk.jsonl")),
        ("/quit", Command("quit")),
    ],
)
def test_a_line_is_a_message_or_a_command(line: str, meant: object) -> None:
    assert chat_session.read(line) == meant


@pytest.mark.parametrize(("line", "told"), [("/tmep 1", "/temp"), ("/etc/passwd", "/help"), ("/", "/help")])
def test_what_is_no_command_is_not_sent(line: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        chat_session.read(line)


def test_every_command_is_in_the_help() -> None:
    _, text = chat_session.obey(BOTH, Command("help"), rounds)
    assert all(f"/{name}" in text for name in chat_session.NAMES)


def test_the_temperature_changes_and_nothing_else() -> None:
    session, said = chat_session.obey(BOTH, Command("temp", "0"), rounds)
    assert session.temperature == 0 and session.turns == BOTH.turns and "0" in said


@pytest.mark.parametrize("text", ["", "warm", "-1", "5.1", "nan", "inf", "1e999"])
def test_a_temperature_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="/temp"):
        chat_session.obey(BOTH, Command("temp", text), rounds)


def test_another_round_goes_on_with_the_conversation() -> None:
    alone = Session((2,), 0.7, 100).after("One?", [answer(2, "two")])
    session, said = chat_session.obey(alone, Command("round", "1"), rounds)
    assert session.rounds == (1,) and session.turns == alone.turns and "1" in said
    assert chat_session.obey(alone, Command("round", "base"), rounds)[0].rounds == (0,)


def test_a_comparison_keeps_its_base() -> None:
    assert chat_session.obey(BOTH, Command("round", "1"), rounds)[0].rounds == (0, 1)
    with pytest.raises(UsageError, match=r"(?i)base"):
        chat_session.obey(BOTH, Command("round", "base"), rounds)
    with pytest.raises(UsageError, match="9"):
        chat_session.obey(BOTH, Command("round", "9"), rounds)


@given(st.lists(st.integers(0, 400), max_size=9), st.integers(1, 600), st.integers(1, 200))
def test_as_few_of_the_oldest_turns_are_left_out_as_must(sizes: list[int], context: int, room: int) -> None:
    sizes = sizes if len(sizes) % 2 else [*sizes, 7]
    messages: list[Message] = [{"role": "user", "content": str(size)} for size in sizes]

    def size(shown: object) -> int:
        return sum(int(message["content"]) for message in shown)  # type: ignore[attr-defined]

    gone = left_out(messages, size, context, room)
    assert 0 <= gone <= len(messages) // 2
    rest = messages[2 * gone :]
    assert len(rest) == 1 or size(rest) + room <= context
    assert gone == 0 or size(messages[2 * (gone - 1) :]) + room > context


def test_hostile_lines_are_messages_or_mistakes_and_nothing_else() -> None:
    from hostile import hostile

    chance = random.Random(8)
    for _ in range(2_000):
        try:
            told = chat_session.read(chance.choice(["", "/", "//", "/save "]) + hostile(chance))
        except UsageError:
            continue
        assert isinstance(told, str | Command)
