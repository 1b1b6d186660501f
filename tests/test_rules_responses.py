"""Each response rule catches what it names and lets its neighbour pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisheep.rules.heuristics import RESPONSE_RULES, repeated_share, response_fault
from minisheep.rules.wording import ENGLISH, wording_of

CHINESE = wording_of("zh")
ASK = "Tell me what sheep like to eat."
CLAUSE = "the sheep went up the hill and"

CAUGHT = [
    ("empty", ASK, "", "", "end"),
    ("empty", ASK, "", " \n", "end"),
    ("new_turn", ASK, "", "Grass.\nUser: thanks", "end"),
    ("new_turn", ASK, "", "Grass.\n**Question 2:** And goats", "end"),
    ("new_turn", ASK, "", "assistant\nGrass.", "end"),
    ("new_turn", ASK, "", "Grass.<|im_end|>", "end"),
    ("answer_choices", ASK, "", "A) grass\nB) stones\nC) air", "end"),
    ("answer_choices", ASK, "", "Pick one.\n(a) grass\n(b) stones", "end"),
    ("answer_choices", ASK, "", "Is it A. grass, B. stones or C. air", "end"),
    ("answer_choices", ASK, "", "The answer choices are grass and air.", "end"),
    ("answer_choices", ASK, "", "Options:\n- grass\n- air", "end"),
    ("asks_back", ASK, "", "They eat grass.\n\nWhat would you like to know next?", "end"),
    ("chinese", ASK, "", "They eat 草.", "end"),
    ("loops", ASK, "", "grass " * 5, "end"),
    ("loops", ASK, "", "Green grass\nhay\nGreen grass\noats\ngreen grass", "end"),
    ("loops", ASK, "", "They eat the green grass. And hay. They eat the green grass.", "end"),
    ("loops", ASK, "", f"{CLAUSE} {CLAUSE} {CLAUSE} {CLAUSE} came down", "end"),
    ("copies_instruction", ASK, "", "tell me what sheep like to eat!", "end"),
    ("copies_instruction", ASK, "", f"{ASK} They eat grass, hay and many kinds of leaves.", "end"),
    ("copies_instruction", ASK, "", "what sheep really like to eat", "end"),
    ("copies_instruction", "Add a line to this poem.", "Up on the hill", "Up on the hill", "end"),
    ("copies_instruction", "Say more.", "The sheep went up the hill", "The sheep went up the hill.", "end"),
    ("copies_instruction", "Say more.", "The sheep went up the hill", "Say more. The sheep went up the hill.", "end"),
    ("copies_instruction", "Say more.", "The sheep went up the green hill", "Sheep went up the green hill now", "end"),
    ("copies_instruction", "再多说一点", "", "再多说一点。", "end"),
    ("never_ends", ASK, "", "They eat grass and", "length"),
]
PASS = [
    (ASK, "", "They eat grass.", "end"),
    (ASK, "", "Grass", "stop"),
    (ASK, "", "They eat grass.", "length"),
    (ASK, "", "Foods:\n- grass\n- hay", "length"),
    ("Is it a cat or a dog?", "woof", "A dog", "end"),
    ("Which word is a colour?", "red table chair", "red", "end"),
    ("Say the word again.", "owl", "Owl", "end"),
    ("Which system is better, human or machine?", "", "human", "end"),
    ("Name the key parts of a computer.", "", "System requirements: none.\nUser friendly parts.", "end"),
    ("Show how to print.", "", "Do this.\n```\nOutput: 1\nx = 1 + 1\nx = 1 + 1\nx = 1 + 1\n```", "end"),
    ("Write three questions about sheep.", "", "Here they are.\n\nWhat do sheep eat?", "end"),
    ("Plan a talk about sheep.", "", "Points.\n\n- Where?\n- What do they eat?", "end"),
    ("Write about sheep, rhetorically.", "", "Do sheep dream?\n\nYes, they do.", "end"),
    ("Who wrote it?", "", "It was A. Smith or B. Jones.", "end"),
    ("Print a row of zeros.", "", "0 0 0 0 0 0 0 0", "end"),
    ("Put the animals in order.", "cow, ant, dog, bee, elk, cat", "ant, bee, cat, cow, dog, elk", "end"),
    ("List the names in the text.", "Ann met Bob, then Cid saw Dan and Eve left", "Ann, Bob, Cid, Dan, Eve", "end"),
    ("再多说一点", "", "...", "end"),
]


@pytest.mark.parametrize(("rule", "instruction", "input", "output", "finish"), CAUGHT)
def test_a_fault_is_named_by_its_rule(rule: str, instruction: str, input: str, output: str, finish: str) -> None:
    fault = response_fault(instruction, input, output, finish, wording=CHINESE if instruction[0] == "再" else ENGLISH)
    assert fault is not None
    assert fault[0] == rule
    assert fault[1]


@pytest.mark.parametrize(("instruction", "input", "output", "finish"), PASS)
def test_an_ordinary_answer_passes(instruction: str, input: str, output: str, finish: str) -> None:
    assert response_fault(instruction, input, output, finish) is None


def test_every_rule_has_a_case() -> None:
    assert {case[0] for case in CAUGHT} == {name for name, _, _ in RESPONSE_RULES}


def test_chinese_passes_in_a_run_of_another_language() -> None:
    assert response_fault("羊吃什么？", "", "它们吃草。", "end", wording=CHINESE) is None


def test_loops_are_seen_in_scripts_without_spaces() -> None:
    fault = response_fault("羊吃什么？", "", "羊在山上吃青草，" * 5, "end", wording=CHINESE)
    assert fault is not None
    assert fault[0] == "loops"


def test_details_stay_short() -> None:
    fault = response_fault(ASK, "", "Grass.\nUser: " + "thanks " * 30, "end")
    assert fault is not None
    assert len(fault[1]) <= 60


def test_repeated_share_counts_what_was_there_before() -> None:
    assert repeated_share(["a", "b", "a", "b"], 2) == pytest.approx(1 / 3)
    assert repeated_share(["a"], 2) == 0.0


@given(st.text(), st.text(), st.text(), st.sampled_from(["end", "stop", "length"]))
def test_any_text_gets_a_fault_of_the_table_or_none(instruction: str, input: str, output: str, finish: str) -> None:
    fault = response_fault(instruction, input, output, finish)
    assert fault is None or fault[0] in {name for name, _, _ in RESPONSE_RULES}


@given(st.text().filter(str.strip))
def test_an_echo_of_the_instruction_never_passes(text: str) -> None:
    assert response_fault(text, "", text, "end", wording=CHINESE) is not None
