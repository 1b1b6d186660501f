"""Every strange list that was seen is a row here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisheep.rules.task_list import Task, parse_task_list

POEM, BIRDS = Task("Write a poem.", ""), Task("Name three birds.", "owl")

SHAPES = {
    "as asked": (" Write a poem.\nInput: (none)\n\n7. Instruction: Name three birds.\nInput: owl", [POEM, BIRDS]),
    "no blank lines": (" Write a poem.\nInput: (none)\n7. Instruction: Name three birds.\nInput: owl", [POEM, BIRDS]),
    "no labels": ("Write a poem.\n7. Name three birds.\nInput: owl", [POEM, BIRDS]),
    "own number again": ("6. Instruction: Write a poem.\nInput: none", [POEM]),
    "own number below": ("\n\n6. Write a poem.", [POEM]),
    "own label again": ("\nInstruction: Write a poem.", [POEM]),
    "parentheses": ("Write a poem.\n7) Name three birds.\nInput: owl", [POEM, BIRDS]),
    "both parentheses": ("Write a poem.\n(7) Name three birds.\nInput: owl", [POEM, BIRDS]),
    "bold numbers": ("Write a poem.\n\n**7.** Name three birds.\n**Input:** owl", [POEM, BIRDS]),
    "bold items": ("Write a poem.\n\n**7. Name three birds.**\n*Input*: owl", [POEM, BIRDS]),
    "bold labels": ("Write a poem.\n\n**7. Instruction:** Name three birds.\n**Input:** owl", [POEM, BIRDS]),
    "task numbers": ("Write a poem.\n\nTask 7: Name three birds.\nInput: owl", [POEM, BIRDS]),
    "bold task numbers": ("Write a poem.\n\n**Task 7:** Name three birds.\nInput: owl", [POEM, BIRDS]),
    "headings": ("Write a poem.\n\n### Task 7\nName three birds.\n### Input:\nowl\n", [POEM, BIRDS]),
    "instruction numbers": ("Write a poem.\n\nInstruction 7: Name three birds.\nInput: owl", [POEM, BIRDS]),
    "task labels": ("Write a poem.\n7. Task: Name three birds.\nInput: owl", [POEM, BIRDS]),
    "upper case": ("Write a poem.\nINPUT: NONE\n7. INSTRUCTION: Name three birds.\nINPUT: owl", [POEM, BIRDS]),
    "no numbers": ("Write a poem.\nInput: N/A\nInstruction: Name three birds.\nInput: owl", [POEM, BIRDS]),
    "no numbers, no inputs": ("Write a poem.\n\nInstruction: Name three birds.", [POEM, Task("Name three birds.", "")]),
    "labels touch": ("Write a poem.\nInstruction: Name three birds.", [POEM, Task("Name three birds.", "")]),
    "indented": ("  Write a poem.\n  Input:\n  7. Name three birds.\n  Input: owl", [POEM, BIRDS]),
    "hash separators": ("Write a poem.\n###\n7. Name three birds.\nInput: owl\n###\n", [POEM, BIRDS]),
    "rules between": ("Write a poem.\n\n---\n\n7. Name three birds.\nInput: owl\n\n* * *", [POEM, BIRDS]),
    "outputs": ("Write a poem.\nInput:\nOutput: Baa.\n\n7. Name three birds.\nInput: owl\nAnswer: tit", [POEM, BIRDS]),
    "long outputs": ("Write a poem.\n\nResponse:\nBaa.\n\nBaa.\n7. Name three birds.\nInput: owl", [POEM, BIRDS]),
    "more examples": ("Write a poem.\nOutput: Baa.\nInput: grass\nOutput: Moo.", [POEM]),
    "quotes": ('"Write a poem."\n7. “Name three birds.”\nInput: "owl"', [POEM, BIRDS]),
    "two layers": ('**"Write a poem."**', [POEM]),
    "inner quotes stay": ('"Run" and "walk": compare both.', [Task('"Run" and "walk": compare both.', "")]),
    "input in the line": ("Write a poem.\n7. Name three birds. Input: owl", [POEM, BIRDS]),
    "no input in the line": ("Write a poem. Input: (none)", [POEM]),
    "noinput": ("Write a poem.\nInput: <noinput>", [POEM]),
    "no input needed": ("Write a poem.\nInput: No input needed.", [POEM]),
    "dash": ("Write a poem.\nInput: -", [POEM]),
    "talk after none": ("Write a poem.\nInput: (none)\nHere is the next one", [POEM]),
    "skipped number": ("Write a poem.\n9. Name three birds.\nInput: owl", [POEM, BIRDS]),
    "windows lines": ("Write a poem.\r\n7. Name three birds.\r\nInput: owl\r\n", [POEM, BIRDS]),
    "empty item": ("Write a poem.\n7.\n8. Name three birds.\nInput: owl\n9.", [POEM, BIRDS]),
    "loose spaces": ("  Write  a   poem. \n\n\n\n7.   Name three birds. \nInput:   owl  ", [POEM, BIRDS]),
    "title": ("Write a poem.\n7. Ornithology\nTask: Name three birds.\nInput: owl", [POEM, BIRDS]),
    "lower numbers are text": (
        "Put these in order.\nInput: 1. egg\n2. hen\n7. Name three birds.\nInput: owl",
        [Task("Put these in order.", "1. egg\n2. hen"), BIRDS],
    ),
    "a list that passes the number": (
        "Sort.\nInput:\n4. a\n5. b\n6. c\n7. d\n7. Instruction: Name three birds.\nInput: owl",
        [Task("Sort.", "4. a\n5. b\n6. c\n7. d"), BIRDS],
    ),
    "a list that ends before the number": (
        "Sort.\nInput:\n5. b\n6. c\n\n7. Name three birds.\nInput: owl",
        [Task("Sort.", "5. b\n6. c"), BIRDS],
    ),
    "a year is text": ("Explain the year\n1984. Use two words.", [Task("Explain the year\n1984. Use two words.", "")]),
    "a clock is text": ("Say the time.\nInput: now\n7:30", [Task("Say the time.", "now\n7:30")]),
    "a decimal is text": ("Round this.\nInput: these\n7.5 and 8", [Task("Round this.", "these\n7.5 and 8")]),
    "a task in an input": ("Sum up.\nInput: My day\nTask: rest", [Task("Sum up.", "My day\nTask: rest")]),
    "a task in an instruction": ("Sum up this:\nTask: rest", [Task("Sum up this:\nTask: rest", "")]),
    "input keeps its indents": (
        "Fix it.\nInput: def f():\n    return  1",
        [Task("Fix it.", "def f():\n    return  1")],
    ),
    "brackets are an input": ("Balanced or not?\nInput: ()[]", [Task("Balanced or not?", "()[]")]),
    "nothing": ("", []),
    "only an input": ("Input: owl", []),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_that_models_write(shape: str) -> None:
    text, expected = SHAPES[shape]
    assert parse_task_list(text, 6, cut_off=False) == expected


def test_the_last_task_is_dropped_when_the_text_was_cut_off() -> None:
    assert parse_task_list("Write a poem.\n7. Name three bi", 6, cut_off=True) == [POEM]
    assert parse_task_list("Write a poem.\n7. Name three birds.\nInput: owl", 6, cut_off=True) == [POEM]


def test_a_number_without_a_task_shows_that_the_one_before_is_whole() -> None:
    assert parse_task_list("Write a poem.\n7.", 6, cut_off=True) == [POEM]


@pytest.mark.parametrize("text", ["Write a poem.", '"Write a poem."', "Write a poem.\nInput: (none)"])
def test_an_only_task_that_ends_a_sentence_is_kept(text: str) -> None:
    assert parse_task_list(text, 6, cut_off=True) == [POEM]


def test_an_only_task_that_breaks_off_is_dropped() -> None:
    assert parse_task_list("Write a po", 6, cut_off=True) == []
    assert parse_task_list("", 6, cut_off=True) == []


def test_a_task_whose_output_was_cut_off_is_whole() -> None:
    text = "Write a poem.\n7. Name three birds.\nInput: owl\nOutput: tit, wr"
    assert parse_task_list(text, 6, cut_off=True) == [POEM, BIRDS]


pieces = st.lists(
    st.sampled_from(
        [
            "6.",
            "7.",
            "8)",
            "**9.**",
            "Task 7:",
            "1.",
            "Instruction:",
            "Input:",
            "Output:",
            "(none)",
            "\n",
            "\n\n",
            " ",
            "Write a poem.",
            "**",
            '"',
            "###",
            "---",
            "\r\n",
            "\ud800",
            "٧.",
        ]
    ),
    max_size=25,
).map("".join)


@given(pieces | st.text(), st.integers(), st.booleans())
def test_any_text_gives_tidy_tasks(text: str, first_number: int, cut_off: bool) -> None:
    tasks = parse_task_list(text, first_number, cut_off)
    for task in tasks:
        assert task.instruction
        assert task.instruction == task.instruction.strip()
        assert task.input == task.input.strip()
    if not cut_off:
        assert parse_task_list(text, first_number, True) in (tasks, tasks[:-1])


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[A-Z][a-z]{2,8}( [a-z]{2,8}){2,6}\.", fullmatch=True), st.sampled_from(["", "owl", "3 x"])
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 50),
)
def test_what_the_prompt_format_writes_is_read_back(rows: list[tuple[str, str]], first: int) -> None:
    written = "\n\n".join(f"{first + i}. Instruction: {a}\nInput: {b or '(none)'}" for i, (a, b) in enumerate(rows))
    text = written.removeprefix(f"{first}. Instruction:")
    assert parse_task_list(text, first, cut_off=False) == [Task(a, b) for a, b in rows]
