"""Each instruction rule catches what it names and lets its neighbour pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisheep.rules.heuristics import INSTRUCTION_RULES, instruction_fault

CAUGHT = [
    ("too_short", "", ""),
    ("too_short", "Write a poem", ""),
    ("too_long", "word " * 151, ""),
    ("not_text_only", "Describe what this picture shows.", ""),
    ("not_text_only", "Please Draw me a small sheep.", ""),
    ("not_text_only", "Go  to the shop and buy milk.", ""),
    ("not_text_only", "Summarise the following report.", "See the attached file."),
    ("starts_with_punctuation", "- Write a poem about sheep.", ""),
    ("starts_with_punctuation", '  "Write a poem about sheep.', ""),
    ("starts_non_ascii", "Écris un poème sur les moutons.", ""),
    ("starts_non_ascii", "写 一 首 诗", ""),
    ("no_input_marker", "Write a poem about sheep. <noinput>", ""),
    ("no_input_marker", "Write a poem about sheep.", "Sheep (none) grass"),
    ("no_input_marker", "Write a poem about sheep [No input]", ""),
    ("stray_label", "Write a poem about sheep.\nOutput: Baa", ""),
    ("stray_label", "Write a poem about sheep. Input: Dolly", ""),
    ("stray_label", "Tell a story.\n**user:** hello there", ""),
    ("stray_label", "Translate this into French.", "hello\nOutput: bonjour"),
    ("has_url", "Summarise the article at https://example.org/a please.", ""),
    ("has_url", "Summarise this short article.", "read www.example.org/a"),
    ("input_repeated", "Translate 'good  morning' into French.", '"Good morning"'),
    ("input_repeated", "What is 12 times twelve?", "12"),
]
PASS = [
    ("Write a short poem.", ""),
    ("word " * 150, ""),
    ("Explain why mapping and filing take time.", ""),
    ("Is the following answer right?", "Question: what is 2 + 2? Four."),
    ("Translate the word into French.", "a"),
    ("Say what the input: a list of names has in common.", "Ann, Bob"),
    ("Name none of these birds again.", "owl"),
    ("Which is larger, 3 or 4?", ""),
    ("Complete the sentence in a funny way.", "..."),
]


@pytest.mark.parametrize(("rule", "instruction", "input"), CAUGHT)
def test_a_fault_is_named_by_its_rule(rule: str, instruction: str, input: str) -> None:
    fault = instruction_fault(instruction, input)
    assert fault is not None
    assert fault[0] == rule
    assert fault[1]


@pytest.mark.parametrize(("instruction", "input"), PASS)
def test_an_ordinary_instruction_passes(instruction: str, input: str) -> None:
    assert instruction_fault(instruction, input) is None


def test_every_rule_has_a_case() -> None:
    assert {rule for rule, _, _ in CAUGHT} == {name for name, _, _ in INSTRUCTION_RULES}


def test_the_first_rule_in_order_is_the_one_named() -> None:
    names = [name for name, _, _ in INSTRUCTION_RULES]
    assert names[:2] == ["too_short", "too_long"]
    assert instruction_fault("- draw sheep", "") == ("too_short", "3 words")


def test_details_stay_short() -> None:
    fault = instruction_fault(f"Summarise the article at https://example.org/{'a' * 300} please.", "")
    assert fault is not None
    assert len(fault[1]) <= 60


@given(st.text(), st.text())
def test_any_text_gets_a_fault_of_the_table_or_none(instruction: str, input: str) -> None:
    fault = instruction_fault(instruction, input)
    assert fault is None or fault[0] in {name for name, _, _ in INSTRUCTION_RULES}
