"""Ten thousand hostile texts through what chat draws: nothing but text and colours reaches the terminal."""

from __future__ import annotations

import io
import json
import pty
import random
import sys
import termios

import pytest
from hostile import MARKDOWN, SGR, hostile
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_ui import UNSAFE

from minisheep.chat.session import ChatAnswer
from minisheep.chat.view import Flow, JsonScreen, PlainScreen, SafeMarkdown, Tail, TerminalScreen, remarks, side_by_side
from minisheep.rules.plain_text import sanitise


def terminal(width: int = 80, height: int = 30) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=True, width=width, height=height, color_system="truecolor", highlight=False
    )
    return console, stream


def rendered(text: str, width: int = 80) -> str:
    console, stream = terminal(width)
    console.print(side_by_side(["base"], [text]))
    return SGR.sub("", stream.getvalue())


def test_ten_thousand_hostile_texts_as_markdown_are_text_and_colours() -> None:
    chance = random.Random(11)
    console, stream = terminal()
    for number in range(500):
        texts = ["\n\n".join(hostile(chance, 2) for _ in range(10)) for _ in range(2)]
        if number % 2:
            texts = ["\n\n".join(texts)]
        console.print(side_by_side(["base", "round 1"][: len(texts)], texts))
        shown = SGR.sub("", stream.getvalue())
        assert not UNSAFE.search(shown), ascii(shown)
        stream.seek(0)
        stream.truncate()


@pytest.mark.parametrize(
    "text",
    [
        "[text](http://x.example)",
        "[t](javascript:alert(1))",
        "![image](http://x.example/y.png)",
        "<http://auto.example>",
        "<img src=x onerror=y>",
        "<b>bold</b>",
        "<!-- hidden -->",
        "&#27;[31m",
        "&#x202e;",
        "[ref]: http://x.example 'title'",
        "[red]not rich[/red]",
        "[link=http://x.example]y[/link]",
        ":sheep:",
    ],
)
def test_what_could_act_or_hide_is_shown_as_it_was_written(text: str) -> None:
    assert rendered(text).strip() == text
    assert text in rendered(f"Before {text} after").strip()


def test_no_part_of_a_text_is_hidden() -> None:
    shown = rendered("one\n<div>\ntwo\n</div>\n\n[three]: http://four\n\n![five](six)\n\n```seven\neight\n```")
    for word in ("one", "two", "three", "four", "five", "six", "eight"):
        assert word in shown


def test_markdown_is_rendered() -> None:
    console, stream = terminal()
    console.print(SafeMarkdown("# Title\n\n**bold** and `code`\n\n- item\n\n| a | b |\n|---|---|\n| 1 | 2 |"))
    shown = stream.getvalue()
    assert "**" not in shown and "\x1b[1mbold" in shown and "•" in SGR.sub("", shown) and "|---|" not in shown


def test_code_is_shown_as_it_is_whatever_language_it_claims() -> None:
    for language in ("python", "no-such-lexer", "\x1b[31m", "html", ""):
        assert "if x < 1:  # [red]" in rendered(f"```{language}\nif x < 1:  # [red]\n```")


def test_two_answers_stand_side_by_side() -> None:
    console, stream = terminal(60)
    console.print(side_by_side(["base", "round 2"], ["left words", "right words"]))
    lines = SGR.sub("", stream.getvalue()).splitlines()
    assert lines[0].split() == ["base", "round", "2"]
    assert "left words" in lines[1] and "right words" in lines[1]


@pytest.mark.parametrize("width", [1, 7, 40])
def test_hostile_answers_fit_terminals_of_any_width(width: int) -> None:
    chance = random.Random(width)
    for _ in range(40):
        assert not UNSAFE.search(rendered(hostile(chance), width))


def test_of_a_long_answer_the_end_is_seen_while_it_grows() -> None:
    console, stream = terminal(40, 10)
    console.print(Tail(SafeMarkdown("\n\n".join(f"line {n}" for n in range(50)))))
    shown = SGR.sub("", stream.getvalue())
    assert "line 49" in shown and "line 40" not in shown and len(shown.splitlines()) <= 10


@given(st.text(st.sampled_from("a\r\n\t\x1b\u202e"), max_size=30), st.data())
def test_a_text_in_parts_is_shown_as_the_whole_would_be(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    flow = Flow()
    parts = [flow.feed(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert "".join(parts) + flow.rest() == sanitise(text)


def answered(screen: TerminalScreen | PlainScreen | JsonScreen, chance: random.Random, rounds: tuple[int, ...]) -> None:
    """A message with hostile answers, in parts."""
    screen.begin(rounds, hostile(chance))
    answers = []
    for number in rounds:
        text = hostile(chance, 12)
        cut = chance.randint(0, len(text))
        for part in (text[:cut], text[cut:]):
            screen.part(number, part)
        answers.append(ChatAnswer(number, text, chance.choice(["end", "length", "stopped"]), 3, chance.randint(0, 2)))
    screen.end(answers)
    screen.note(hostile(chance))


def test_ten_thousand_hostile_answers_in_a_pipe_are_text() -> None:
    chance, out, err = random.Random(12), io.StringIO(), io.StringIO()
    screen = PlainScreen(out, err)
    for number in range(5_000):
        answered(screen, chance, (0, 1) if number % 2 else (0,))
    assert not UNSAFE.search(out.getvalue()) and not UNSAFE.search(err.getvalue())


def test_hostile_answers_that_grow_on_a_terminal_are_text() -> None:
    chance = random.Random(13)
    console, stream = terminal()
    screen = TerminalScreen(console)
    for _ in range(20):
        answered(screen, chance, (0, 1))
    own = SGR.sub("", stream.getvalue())
    for sequence in ("\x1b[?25l", "\x1b[?25h", "\x1b[2K", "\x1b[1A", "\r"):
        own = own.replace(sequence, "")
    assert not UNSAFE.search(own), ascii(UNSAFE.search(own))


def test_hostile_answers_as_json_are_one_object_a_line() -> None:
    chance, out = random.Random(14), io.StringIO()
    screen = JsonScreen(out, io.StringIO())
    for _ in range(300):
        answered(screen, chance, (0, 1))
    lines = out.getvalue().splitlines()
    assert len(lines) == 600 and out.getvalue().isascii()
    assert {json.loads(line)["round"] for line in lines} == {0, 1}


def test_a_pipe_gets_answers_alone_and_their_names_where_there_are_two() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = PlainScreen(out, err)
    screen.begin([2], "Why?")
    screen.part(2, "Because")
    screen.part(2, ".")
    screen.end([ChatAnswer(2, "Because.", "length", 2, 1)])
    assert out.getvalue() == "Because.\n"
    assert "--max-tokens" in err.getvalue()
    screen.begin([0, 2], "Why?")
    screen.part(0, "So.")
    screen.part(2, "Thus.")
    screen.end([ChatAnswer(0, "So.", "end"), ChatAnswer(2, "Thus.", "end")])
    assert out.getvalue() == "Because.\nbase:\nSo.\nround 2:\nThus.\n"


def test_an_empty_answer_is_a_line_and_is_said() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = PlainScreen(out, err)
    for _ in range(2):
        screen.begin([0], "Why?")
        screen.part(0, "")
        screen.end([ChatAnswer(0, "", "end")])
    assert out.getvalue() == "\n\n" and err.getvalue().count("empty") == 2


def test_a_good_answer_needs_no_remark() -> None:
    assert remarks([ChatAnswer(0, "Yes.", "end", 2), ChatAnswer(1, "Yes.", "stop", 2)]) == []
    assert len(MARKDOWN) == len(set(MARKDOWN))


def test_while_an_answer_is_drawn_nothing_typed_is_shown_and_ctrl_c_drops_no_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = pty.openpty()
    with open(theirs, "rb", buffering=0) as keyboard, open(ours, "rb", buffering=0):
        monkeypatch.setattr(sys, "stdin", keyboard)
        console, stream = terminal()
        screen, before = TerminalScreen(console), termios.tcgetattr(theirs)
        screen.begin([0], "Why?")
        local = termios.tcgetattr(theirs)[3]
        assert not local & termios.ECHO and local & termios.NOFLSH and local & termios.ISIG
        screen.part(0, "Because")
        screen.end([ChatAnswer(0, "Because.", "stopped")])
        assert termios.tcgetattr(theirs) == before and "Because." in stream.getvalue()
        with screen.busy("Loading"):
            assert not termios.tcgetattr(theirs)[3] & termios.ECHO
        assert termios.tcgetattr(theirs) == before and "Loading" in stream.getvalue()
