"""Prompts and the grades that come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisheep.data.seed_tasks import load_prompts
from minisheep.rules.prompts import (
    CRITERIA,
    LABELS,
    STYLES,
    Frame,
    answer_prompt,
    backward_prompt,
    fill,
    judge_prompt,
    parse_grade,
    pick_shots,
    task_list_prompt,
    task_list_stop,
    user_text,
)
from minisheep.rules.task_list import Task
from minisheep.rules.templates import Segment, chatml, plain
from minisheep.rules.wording import ENGLISH

GRADES = [
    ("8", 8),
    (" 8", 8),
    ("\n8\n", 8),
    ("8 || clear and right", 8),
    ("8||clear", 8),
    ("10||perfect", 10),
    ("1", 1),
    ("7.5 || nearly", 7.5),
    ("8/10", 8),
    ("8 / 10 || good", 8),
    ("8 out of 10", 8),
    ("8.", 8),
    ("8점", 8),
    ("10. Everything is there.", 10),
    ("8, because it is short", 8),
    ("8\n\nThe answer is good", 8),
    ("8 - a good answer", 8),
    ("(8)", None),
    ("0", None),
    ("0.5", None),
    ("11", None),
    ("10.5", None),
    ("100", None),
    ("80%", None),
    ("80 %", None),
    ("8%", None),
    ("8/100", None),
    ("4/5", None),
    ("8,5", None),
    ("1-10", None),
    ("7 – 8", None),
    ("-8", None),
    ("8th place", None),
    ("8x", None),
    ("1.2.3", None),
    ("ten", None),
    ("Grade: 8", None),
    ("||", None),
    ("", None),
    ("I would say 8", None),
    ("9" * 400, None),
]


@pytest.mark.parametrize(("reply", "grade"), GRADES)
def test_a_grade_is_read_or_it_is_not(reply: str, grade: float | None) -> None:
    assert parse_grade(reply) == grade


@given(st.text())
def test_any_reply_gives_a_grade_in_range_or_none(reply: str) -> None:
    grade = parse_grade(reply)
    assert grade is None or 1 <= grade <= 10


@pytest.mark.parametrize("label", LABELS)
def test_every_label_is_read_as_itself(label: str) -> None:
    assert parse_grade(label) == float(label)


def test_braces_in_what_is_filled_in_stay() -> None:
    values = {"instruction": "Print {response} and {0} and {{x}}.", "response": "{instruction}"}
    filled = fill("Q {instruction} A {response} {unknown} {}", values)
    assert filled == "Q Print {response} and {0} and {{x}}. A {instruction} {unknown} {}"


@given(st.text(), st.text())
def test_filling_is_a_single_pass(first: str, second: str) -> None:
    assert fill("{a}|{b}", {"a": first, "b": second}) == f"{first}|{second}"


def test_the_user_text_is_the_instruction_and_its_input() -> None:
    assert user_text("Do.", "") == "Do."
    assert user_text("Do.", "this") == "Do.\nthis"


SEEDS = [(f"seed-{i}", Task(f"Task {i}.", "")) for i in range(20)]


def test_shots_follow_from_identity_and_not_from_order() -> None:
    chosen = pick_shots(SEEDS, 5, 1, 2, "generate", 3)
    assert chosen == pick_shots(SEEDS[::-1], 5, 1, 2, "generate", 3)
    assert len({id_ for id_, _ in chosen}) == 5
    assert chosen != pick_shots(SEEDS, 5, 1, 2, "generate", 4)


def test_every_seed_is_shown_at_some_time() -> None:
    shown = {id_ for index in range(60) for id_, _ in pick_shots(SEEDS, 5, 1, 1, "generate", index)}
    assert len(shown) == len(SEEDS)


def test_shots_may_have_any_text_as_their_id() -> None:
    assert len(pick_shots([("\ud800", Task("A.", "")), ("b", Task("B.", ""))], 1, 1)) == 1


def text_of(prompt: tuple[Segment, ...]) -> str:
    return "".join(segment.text for segment in prompt)


@pytest.mark.parametrize("frame", [Frame(None), Frame(chatml()), Frame(plain("</s>"))])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("explain", [False, True])
def test_the_judge_sees_both_texts_and_its_grade_begins_the_answer(
    frame: Frame, style: str, criterion: str, explain: bool
) -> None:
    prompt = judge_prompt(
        frame, load_prompts(), style, criterion, "Name a bird.", "{response}", "A {wren}.", explain=explain
    )
    text = text_of(prompt)
    assert "Name a bird.\n{response}" in text and "A {wren}." in text
    assert text.endswith(ENGLISH.grade)
    assert ("||" in text) == explain


@pytest.mark.parametrize("style", STYLES)
def test_both_criteria_begin_alike_up_to_the_question(style: str) -> None:
    """So the engine computes the pair once for both."""
    quality, following = (
        text_of(judge_prompt(Frame(None), load_prompts(), style, criterion, "Name a bird.", "", "A wren."))
        for criterion in CRITERIA
    )
    shared = next(i for i, (a, b) in enumerate(zip(quality, following, strict=False)) if a != b)
    assert "A wren." in quality[:shared]
    assert quality != following


def test_only_the_style_with_examples_has_examples() -> None:
    texts = load_prompts()
    assert all(("Example 3" in text) == name.endswith("_icl") for name, text in texts.items())
    assert all(grade in texts["quality_icl"] for grade in ("Quality: 2.", "Quality: 6.", "Quality: 9."))
    assert all(grade in texts["following_icl"] for grade in ("Following: 2.", "Following: 6.", "Following: 9."))


@pytest.mark.parametrize("frame", [Frame(None), Frame(chatml()), Frame(plain("</s>"))])
def test_the_instruction_is_asked_back_with_and_without_an_answer(frame: Frame) -> None:
    with_answer, without = text_of(backward_prompt(frame, "A wren.")), text_of(backward_prompt(frame, ""))
    assert with_answer.replace("A wren.\n\n", "") == without


def test_an_answer_ends_as_the_template_ends_it_or_with_its_line() -> None:
    assert Frame(chatml()).ending == (Segment("<|im_end|>", True),)
    assert Frame(None).ending == (Segment("\n"),)


def test_a_base_model_is_asked_in_plain_text() -> None:
    frame = Frame(None)
    shots = [Task("Name a bird.", ""), Task("Shorten this.", "A long line.")]
    for prompt in (
        answer_prompt(frame, "Name a bird.", ""),
        task_list_prompt(frame, load_prompts(), shots),
        judge_prompt(frame, load_prompts(), "combined", "quality", "Q.", "", "A."),
    ):
        assert [segment.special for segment in prompt] == [False]
    assert text_of(answer_prompt(frame, "Name a bird.", "")) == "Name a bird.\n"
    assert "\nInstruction:" in frame.stop


@pytest.mark.parametrize("frame", [Frame(None), Frame(chatml()), Frame(plain("</s>"))])
def test_the_task_list_shows_its_tasks_and_opens_the_next(frame: Frame) -> None:
    shots = [Task("Name a bird.", ""), Task("Shorten this.", "A {long} line.")]
    text = text_of(task_list_prompt(frame, load_prompts(), shots))
    assert "1. Instruction: Name a bird.\nInput: (none)" in text
    assert "2. Instruction: Shorten this.\nInput: A {long} line." in text
    assert text.endswith("3. Instruction:")
    assert task_list_stop(2) == ("\n13.",)


def test_a_stop_string_of_the_template_is_that_of_the_frame() -> None:
    assert Frame(chatml()).stop == ()
    assert "\nInstruction:" in Frame(plain("</s>")).stop
