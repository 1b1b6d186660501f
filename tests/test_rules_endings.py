"""Answers are cut where they should have ended, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisheep.data.seed_tasks import load_wording
from minisheep.rules.endings import closed_fences, cut_answer, ends_naturally, ends_with_list_line, without_code
from minisheep.rules.heuristics import response_fault

GOOD = "Sheep eat grass. They sleep at night."

TURNS = [
    "Instruction: Write a poem.",
    "Input: owl",
    "Question: What is next?",
    "Question 2: What is next?",
    "User: hello",
    "**User:** hello",
    "Human: hello",
    "Assistant: hello",
    "Q: What is next?",
    "6. Instruction: Write a poem.",
    "6. Instruction\nWrite",
    "**7. Question:** What?",
    "### Instruction:\nWrite",
    "### Response:\nBaa",
    "## Task 3\nWrite",
    "Task: Write a poem.",
    "<|im_end|>",
]


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("finish", ["end", "stop", "length"])
def test_a_new_turn_ends_the_answer(turn: str, finish: str) -> None:
    assert cut_answer(f"{GOOD}\n\n{turn}\nMore text.", finish) == (GOOD, "new_turn")


FIELDS = "The form has these fields:\n1. Name:\n2. Task:\n3. Output:\nFill in each."
EXAMPLE = "Bubble sort swaps neighbours.\n\nInput: [3, 1]\nOutput: [1, 3]\n\nThen it is sorted."
QUESTIONS = "Q: When do you open?\nA: At seven.\n\nQ: Do you sell rye bread?\nA: Yes."
TALK = "Here it is.\n\nUser: hello\nAssistant: good morning"


@pytest.mark.parametrize(
    ("instruction", "text"),
    [
        *(("", FIELDS), ("", EXAMPLE), ("", QUESTIONS)),
        ("Write a conversation of two lines.", TALK),
        ("Write a question and its answer about birds.", f"{GOOD}\n\nQuestion: What eats grass?\nAnswer: Sheep."),
        ("Show the input that the program reads.", f"{GOOD}\nInput: 3"),
        ("Make a task for a cook.", f"{GOOD}\nTask: Peel 3 apples."),
    ],
)
def test_an_answer_that_ended_keeps_the_labels_that_belong_to_it(instruction: str, text: str) -> None:
    assert cut_answer(text, "end", instruction) == (text, "")
    assert response_fault(instruction or "Tell me how.", "", text, "end") is None
    for finish in ("stop", "length"):
        assert cut_answer(text, finish, instruction)[1] == "new_turn"


def test_labels_that_nothing_explains_are_cut_all_the_same() -> None:
    assert cut_answer(TALK, "end", "Greet me.") == ("Here it is.", "new_turn")
    assert cut_answer(f"{GOOD}\n\nQuestion: Why?\nAnswer: So.", "end", "Greet me.") == (GOOD, "new_turn")
    assert cut_answer(f"{GOOD}\n3. Task: Why?", "end", "Greet me.") == (GOOD, "new_turn")


CHINESE = load_wording("", "zh")
SHEEP = "羊吃青草，也吃树叶。它们晚上睡觉。"


@pytest.mark.parametrize("turn", ["用户：谢谢", "问题：那牛呢？", "指令：写诗", "输入：猫", "7. 指令：写", "User: hi"])
def test_a_chinese_turn_ends_a_chinese_answer(turn: str) -> None:
    assert cut_answer(f"{SHEEP}\n\n{turn}\n好。", "end", "羊吃什么？", CHINESE) == (SHEEP, "new_turn")


def test_a_chinese_answer_keeps_what_was_asked_for_and_is_cut_where_it_repeats_itself() -> None:
    asked = f"好的。\n\n问题：{SHEEP[:4]}吗？\n答案：是。"
    assert cut_answer(asked, "end", "写一个关于羊的问题和答案。", CHINESE) == (asked, "")
    assert cut_answer(f"{SHEEP}羊吃青草，也吃树叶。", "end", "", CHINESE) == (SHEEP, "repeated_sentence")


@pytest.mark.parametrize(
    "end", ["</s>", "<|im_end|></s>", " <end_of_turn>", "\n\n###", "<|im_end|>\n<|im_start|>user\nMore"]
)
def test_an_end_that_the_model_spells_out_is_no_part_of_the_answer(end: str) -> None:
    assert cut_answer(f"Seven.{end}", "end") == ("Seven.", "new_turn")
    asked_for = "It is <|im_end|>"
    assert cut_answer(asked_for, "end", "Which of <|im_end|> and </s> ends a turn of ChatML?") == (asked_for, "")
    assert cut_answer("</s>", "end") == ("</s>", "")


@pytest.mark.parametrize(
    ("instruction", "answer"),
    [
        ("Say that the price fell.", '<p>Now 5 euros.</p>\n<s class="old">7 euros</s>'),
        ("Strike out the old price.", "<s>7 euros</s>"),
        ("Which token ends an answer of Llama 2?", "It is </s>"),
        ("Draw a square three wide.", "###\n###\n###"),
        ("Draw a triangle.", "#\n##\n###"),
        ("Write a comment in CoffeeScript.", "###\nReads the file.\n###"),
        ("Write a banner of the shell.", "# ###\n# Backup\n###"),
        ("Outline an essay.", "### One\nSheep.\n### Two"),
    ],
)
def test_what_closes_or_draws_something_is_no_end_that_was_spelt_out(instruction: str, answer: str) -> None:
    assert cut_answer(answer, "end", instruction) == (answer, "")


def test_a_turn_leaves_a_short_answer_whole_even_at_the_token_limit() -> None:
    assert cut_answer("Paris\nQuestion: And Spain", "length") == ("Paris", "new_turn")


@pytest.mark.parametrize(
    "text",
    [
        "Add 40 and 2.\nAnswer: 42",
        "Question: first thing said.",
        "The user: a person who logs in.",
        "Humans are mammals.\nInputs are needed.",
        "1. Ask a question\n2. Wait",
        "Yes. No. Yes. No.",
        "Paris",
    ],
)
def test_an_ordinary_answer_stays_as_it_is(text: str) -> None:
    assert cut_answer(f"  {text}\n", "end") == (text, "")


def test_the_first_repeated_sentence_ends_the_answer() -> None:
    text = f"{GOOD} sheep  EAT grass. They sleep at night! Some do not."
    assert cut_answer(text, "end") == (f"{GOOD} sheep  EAT grass.", "repeated_sentence")


def test_a_repeated_list_line_counts_without_its_number() -> None:
    text = "1. Cut the red apple\n2. Eat it\n3. Cut the red apple\n4. Eat it"
    assert cut_answer(text, "end") == ("1. Cut the red apple\n2. Eat it", "repeated_sentence")


def test_the_last_cut_names_the_reason() -> None:
    text = "Sheep eat green grass. Sheep eat green grass. Good.\nUser: hello"
    assert cut_answer(text, "end") == ("Sheep eat green grass.", "repeated_sentence")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"{GOOD} And then th", GOOD),
        ('He said "baa." Then he', 'He said "baa."'),
        ("Dr. Smith came. Then Dr. Jo", "Dr. Smith came."),
        ("Pi is 3.14 or so. It is 3.1", "Pi is 3.14 or so."),
        ("Foods:\n- grass\n- hay\n- oa", "Foods:\n- grass\n- hay"),
        ("Steps:\n1. Get up\n2. Ea", "Steps:\n1. Get up"),
        ("| a | b |\n| 1 | 2 |\n| 3", "| a | b |\n| 1 | 2 |"),
        ("羊吃草。它们晚上睡", "羊吃草。"),
        ("See below.\n```\nx = 1\n```\nAnd th", "See below.\n```\nx = 1\n```"),
        ("See below.\n```python\nx = 1. y = 2.\nz", "See below."),
        ("Steps:\n- run this\n```\nx = 1", "Steps:\n- run this"),
    ],
)
def test_the_token_limit_cuts_back_to_what_is_whole(text: str, kept: str) -> None:
    assert cut_answer(text, "length") == (kept, "last_sentence")
    assert cut_answer(text, "end") == (text, "")


@pytest.mark.parametrize("text", ["and then the sheep", "Here it is:\n```\nx = 1", "Dr. Jo", ""])
def test_without_a_natural_end_nothing_is_cut(text: str) -> None:
    assert cut_answer(text, "length") == (text, "")


def test_what_ends_naturally_at_the_limit_stays() -> None:
    assert cut_answer(GOOD, "length") == (GOOD, "")


def test_code_is_never_cut_inside() -> None:
    code = "```\nUser: a\nUser: a\nprint the same thing.\nprint the same thing.\n```"
    text = f"Look at this code here.\n{code}"
    assert cut_answer(text, "length") == (text, "")
    assert cut_answer(f"{text}\nUser: hello", "end") == (text, "new_turn")


@pytest.mark.parametrize(
    "text", ["Yes.", "Why?", "Oh…", '"Yes."', "(It is.)", "**Yes!**", "是。", "```\nx\n```", "Yes.\n"]
)
def test_natural_ends(text: str) -> None:
    assert ends_naturally(text)


@pytest.mark.parametrize("text", ["", " ", "Yes", "Yes. And", "as:", "```\nx.", "~~~\nx\n```", "- a"])
def test_no_natural_ends(text: str) -> None:
    assert not ends_naturally(text)


def test_list_lines() -> None:
    assert all(map(ends_with_list_line, ["a:\n- b", "1. b", "(2) b", "| a | b |\n", "* b", "a) b"]))
    assert not any(map(ends_with_list_line, ["", "b", "- a\nb", "-", "1.5 b", "1."]))


def test_fences_close_with_their_own_kind() -> None:
    text = "~~~\n```\n~~~\nplain\n```py\nx\n```"
    assert [text[a:b] for a, b in closed_fences(text)] == ["~~~\n```\n~~~", "```py\nx\n```"]
    assert without_code(text) == "\nplain\n"


pieces = st.lists(
    st.sampled_from(
        [
            "Sheep eat green grass. ",
            "They sleep. ",
            "\n",
            "\n\n",
            "```\n",
            "User: hi",
            "1. one two",
            "- item",
            "Dr. ",
            "x",
        ]
    ),
    max_size=20,
).map("".join)


@given(pieces | st.text(), st.sampled_from(["end", "stop", "length"]))
def test_a_cut_is_a_beginning_of_the_text_and_has_a_reason(text: str, finish: str) -> None:
    cut, reason = cut_answer(text, finish)
    assert text.strip().startswith(cut)
    assert cut == cut.strip()
    assert bool(reason) == (cut != text.strip())


@given(pieces | st.text())
def test_a_cut_answer_is_not_cut_again(text: str) -> None:
    cut, _ = cut_answer(text, "length")
    assert cut_answer(cut, "stop") == (cut, "")
