"""Right answers made wrong: each kind does what it says, or nothing."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisheep.data.seed_tasks import load_seeds
from minisheep.rules import endings
from minisheep.rules.corrupt import KINDS, ExamTask, change_fact, corrupted, names
from minisheep.rules.heuristics import AnsweredText, copies_instruction
from minisheep.rules.similarity import tokens

TASK = ExamTask(
    "Say when the ferry leaves.",
    "The ferry to Oslo leaves at 7. Maya and Paul will take it.",
    "The ferry leaves at 7 in the morning. Maya should be there early. Bring some bread for the trip.",
)
OTHERS = [
    ExamTask(
        "Name a bird.", "", "The robin is a small bird that Anna saw in Bergen. It sings from early spring to autumn."
    ),
    ExamTask("Say yes.", "", "Yes."),
]
SEEDS = [ExamTask(seed.instruction, seed.input, seed.output) for seed in load_seeds() if not seed.held_out]


def spoil(kind: str, task: ExamTask = TASK, seed: int = 1) -> str:
    found = corrupted(kind, task, OTHERS, seed)
    assert found is not None
    return found


def words(text: str) -> list[str]:
    return sorted(text.split())


@pytest.mark.parametrize("seed", range(5))
def test_a_shuffled_answer_is_that_of_another_task(seed: int) -> None:
    assert spoil("shuffled", seed=seed) in {other.answer for other in OTHERS}


def test_a_shuffled_answer_is_of_like_length() -> None:
    many = [ExamTask("I.", "", " ".join(["word"] * n)) for n in (1, 2, 3, 20, 21, 22, 23, 200)]
    lengths = {len((corrupted("shuffled", TASK, many, seed) or "").split()) for seed in range(30)}
    assert lengths == {20, 21, 22, 23}


def test_the_same_words_from_another_task_are_no_wrong_answer() -> None:
    same = ExamTask("Another.", "", TASK.answer.upper())
    assert corrupted("shuffled", TASK, [same], 1) is None
    assert corrupted("shuffled", TASK, [], 1) is None


def test_a_truncated_answer_ends_within_a_sentence_about_half_way() -> None:
    found = spoil("truncated")
    assert TASK.answer.startswith(found)
    assert not endings.ends_naturally(found)
    assert 1 / 3 <= len(found.split()) / len(TASK.answer.split()) <= 2 / 3


def test_a_list_is_not_cut_between_its_lines() -> None:
    task = ExamTask("I.", "", "- a cup of flour\n- two cups of milk\n- one large egg")
    found = spoil("truncated", task)
    assert found not in ("- a cup of flour", "- a cup of flour\n- two cups of milk")


@pytest.mark.parametrize("seed", range(5))
def test_a_looped_answer_says_a_sentence_three_times_or_more(seed: int) -> None:
    said = [endings.normalised(sentence) for _, sentence in endings.sentences(spoil("looped", seed=seed))]
    assert max(map(said.count, said)) >= 3


def test_a_scrambled_answer_has_the_same_words_and_line_breaks() -> None:
    task = ExamTask("I.", "", "Roses are red today.\nViolets are blue, they say.\nSugar is sweet for all of us.")
    found = spoil("scrambled", task)
    assert words(found) == words(task.answer) and found != task.answer
    assert found.count("\n") == 2


def test_a_copied_answer_is_the_instruction_and_input() -> None:
    assert spoil("copied") == f"{TASK.instruction}\n{TASK.input}"


@pytest.mark.parametrize("seed", range(5))
def test_an_echoed_answer_says_a_part_of_the_instruction_and_then_something_else(seed: int) -> None:
    part, answer = spoil("echoed", seed=seed).split("\n")
    assert TASK.instruction.startswith(part) and 3 <= len(part.split()) <= 4
    assert answer in {other.answer for other in OTHERS}
    # The rules let it pass, so it is the judge that must see it.
    assert copies_instruction(AnsweredText(TASK.instruction, TASK.input, f"{part}\n{answer}", "end")) is None


def test_a_part_of_a_short_instruction_is_no_echo() -> None:
    assert corrupted("echoed", ExamTask("Name a bird.", "", "The robin sings."), OTHERS, 1) is None
    assert corrupted("echoed", TASK, [], 1) is None


@pytest.mark.parametrize("seed", range(12))
def test_a_wrong_answer_differs_in_one_fact(seed: int) -> None:
    before, after = TASK.answer.split(), spoil("wrong", seed=seed).split()
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("truncated", "Yes, it does."),
        ("scrambled", "Paris is the capital."),
        ("scrambled", "red, green, blue, yellow, white, black, orange"),
        ("copied", f"{TASK.instruction} {TASK.input}"),
        ("wrong", "It is a kind of bread that rises slowly."),
        ("wrong", "1. Boil water.\n2. Add tea."),
    ],
)
def test_an_answer_that_would_stay_right_is_not_spoiled(kind: str, answer: str) -> None:
    assert corrupted(kind, ExamTask(TASK.instruction, TASK.input, answer), [OTHERS[1]], 1) is None


@given(st.sampled_from(KINDS), st.sampled_from(SEEDS), st.integers(1, 2**32 - 2))
def test_no_spoiled_seed_answer_is_the_right_one(kind: str, task: ExamTask, seed: int) -> None:
    others = [other for other in SEEDS[:20] if other is not task]
    found = corrupted(kind, task, others, seed)
    assert found is None or (found.strip() and tokens(found) != tokens(task.answer))
    assert found == corrupted(kind, task, others, seed)


@given(st.sampled_from(KINDS), st.text(), st.text(min_size=1), st.text(), st.integers(1, 99))
def test_any_text_can_be_tried(kind: str, instruction: str, answer: str, other: str, seed: int) -> None:
    corrupted(kind, ExamTask(instruction, "", answer), [ExamTask("I.", "", other)], seed)


def test_every_kind_can_spoil_most_seed_tasks() -> None:
    for kind in KINDS:
        found = [corrupted(kind, task, SEEDS[:9], number) for number, task in enumerate(SEEDS[9:], 1)]
        assert sum(text is not None for text in found) > len(found) / 2, kind


def test_another_process_spoils_alike() -> None:
    code = (
        "from minisheep.rules.corrupt import change_fact; import random\n"
        "text = 'On Monday the red van came, before noon, at 10.'\n"
        "print([change_fact(text, '', [], random.Random(n)) for n in range(9)])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_},
        ).stdout
        for hash_ in ("1", "2")
    }
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("It has 400 pages.", "digits"),
        ("In 1889 it rose.", "digits"),
        ("It costs 2.50 a day.", "digits"),
        ("한 시간은 60분입니다.", "digits"),
    ],
)
def test_a_number_becomes_another_of_as_many_digits(answer: str, kept: str) -> None:
    for seed in range(20):
        found = change_fact(answer, "", [], random.Random(seed))
        assert found is not None and found != answer and len(found) == len(answer)
        assert [c for c in found if not c.isdigit()] == [c for c in answer if not c.isdigit()]


def test_a_list_number_is_never_changed() -> None:
    for seed in range(20):
        found = change_fact("1. Boil 3 eggs.\n2. Peel them.", "", [], random.Random(seed))
        assert found is not None and found.startswith("1. Boil") and "\n2. Peel" in found


def test_a_name_is_changed_to_one_from_the_input_everywhere() -> None:
    found = change_fact("I met Maya, and Maya smiled.", "Maya flew with Paul.", ["We saw Anna."], random.Random(1))
    assert found == "I met Paul, and Paul smiled."


def test_a_name_from_elsewhere_serves_where_the_input_has_none() -> None:
    assert change_fact("I met Maya there.", "Whom?", ["We saw Anna."], random.Random(1)) == "I met Anna there."


def test_a_word_becomes_its_counterpart_in_its_own_case() -> None:
    assert change_fact("Positive: a kind review.", "", [], random.Random(1)) == "Negative: a kind review."


def test_names_open_no_sentence_and_headings_hold_none() -> None:
    assert names('Then Rosa said: "Hello." Later came Paul.') == ["Rosa", "Paul"]
    assert names("A Year Without Any Car") == []
