"""Seed tasks and prompts: minisheep's own are sound, others' are read, and a fault names its file and line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from minisheep.data.seed_tasks import SeedTask, load_prompts, load_seeds
from minisheep.errors import SeedFileError
from minisheep.rules.heuristics import instruction_fault, response_fault
from minisheep.rules.prompts import PLACEHOLDERS, user_text
from minisheep.rules.similarity import NoveltyIndex

FOREIGN = Path(__file__).parents[2] / "shared/data/self_instruct_seeds.jsonl"
needs_foreign = pytest.mark.skipif(not FOREIGN.exists(), reason="Self-Instruct's seed file is not beside the checkout")


@pytest.fixture(scope="module")
def own() -> list[SeedTask]:
    return load_seeds()


# minisheep's own


def test_there_are_enough_seeds_of_many_kinds(own: list[SeedTask]) -> None:
    assert len(own) >= 250
    assert sum(seed.held_out for seed in own) == 75
    assert len({seed.kind for seed in own}) >= 30
    assert len({seed.id for seed in own}) == len(own)


def test_held_out_seeds_are_of_many_kinds_too(own: list[SeedTask]) -> None:
    assert len({seed.kind for seed in own if seed.held_out}) >= 25


@pytest.mark.parametrize("whole", [False, True])
def test_no_two_seeds_are_alike(own: list[SeedTask], whole: bool) -> None:
    index = NoveltyIndex()
    for seed in own:
        text = user_text(seed.instruction, seed.input) if whole else seed.instruction
        similarity, number = index.nearest(text)
        assert similarity < 0.7, f"{seed.id} and {own[number].id}: {similarity:.2f}"
        index.add(text)


@needs_foreign
def test_no_seed_resembles_one_of_self_instruct(own: list[SeedTask]) -> None:
    theirs = load_seeds(str(FOREIGN))
    index = NoveltyIndex(seed.instruction for seed in theirs)
    for seed in own:
        similarity, number = index.nearest(seed.instruction)
        assert similarity < 0.7, f"{seed.instruction!r} and {theirs[number].instruction!r}"


def test_every_seed_keeps_the_rules_for_instructions(own: list[SeedTask]) -> None:
    faults = {seed.id: instruction_fault(seed.instruction, seed.input) for seed in own}
    assert {id_: fault for id_, fault in faults.items() if fault} == {}


OUTPUT_EXCEPTIONS = {
    "grammar-punctuate": "the input again, with punctuation: what was asked for",
    "grammar-run-on": "the input again, as two sentences",
    "bullets-from-prose": "a list of words of the input",
    "subject-line-training": "a subject line needs the words of the request",
}
"""Seeds whose answer breaks a rule for answers, with why that is right for them."""


def test_every_seed_answer_keeps_the_rules_for_answers(own: list[SeedTask]) -> None:
    faults = {seed.id: response_fault(seed.instruction, seed.input, seed.output, "end") for seed in own}
    found = {id_: fault for id_, fault in faults.items() if fault}
    assert set(found) == set(OUTPUT_EXCEPTIONS), found
    assert {rule for rule, _ in found.values()} == {"copies_instruction"}


def test_seed_texts_are_tidy(own: list[SeedTask]) -> None:
    for seed in own:
        for text in (seed.instruction, seed.input, seed.output):
            assert text == text.strip() and "\r" not in text and "\t" not in text, seed.id


# Others' files


def write(path: Path, items: list[Any], array: bool = False) -> str:
    path.write_text(json.dumps(items, indent=1) if array else "".join(json.dumps(item) + "\n" for item in items))
    return str(path)


OURS = [{"id": f"t{i}", "kind": "k", "instruction": f"Do {i}.", "input": "", "output": f"Done {i}.", "held_out": i < 3}
        for i in range(8)]  # fmt: skip
ALPACA = [{"instruction": f"Do {i}.", "input": "x" if i % 2 else "", "output": f"Done {i}."} for i in range(8)]
SELF_INSTRUCT = [
    {
        "id": f"seed_task_{i}",
        "name": "n",
        "instruction": f"Do {i}.",
        "instances": [{"input": "<noinput>" if i % 2 else "", "output": f"Done {i}."}],
        "is_classification": False,
    }
    for i in range(8)
]


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("items", [OURS, ALPACA, SELF_INSTRUCT], ids=["ours", "alpaca", "self-instruct"])
def test_all_three_formats_are_read(tmp_path: Path, items: list[Any], array: bool) -> None:
    seeds = load_seeds(write(tmp_path / "seeds", items, array))
    assert [seed.instruction for seed in seeds] == [f"Do {i}." for i in range(8)]
    assert [seed.output for seed in seeds] == [f"Done {i}." for i in range(8)]
    assert {seed.input for seed in seeds} <= {"", "x"}
    assert 0 < sum(seed.held_out for seed in seeds) < 8


def test_what_a_file_holds_out_is_held_out(tmp_path: Path) -> None:
    seeds = load_seeds(write(tmp_path / "seeds", OURS))
    assert [seed.id for seed in seeds if seed.held_out] == ["t0", "t1", "t2"]


def test_what_is_held_out_does_not_depend_on_the_order(tmp_path: Path) -> None:
    one = load_seeds(write(tmp_path / "one", ALPACA))
    two = load_seeds(write(tmp_path / "two", ALPACA[::-1]))
    assert {s.instruction for s in one if s.held_out} == {s.instruction for s in two if s.held_out}
    assert sum(s.held_out for s in one) == 2


def test_every_instance_is_a_seed(tmp_path: Path) -> None:
    items = [*SELF_INSTRUCT, {"instruction": "Add.", "instances": [{"input": str(i), "output": "4"} for i in range(3)]}]
    seeds = load_seeds(write(tmp_path / "seeds", items))
    assert [seed.input for seed in seeds if seed.instruction == "Add."] == ["0", "1", "2"]
    assert len({seed.id for seed in seeds}) == 11


def test_blank_lines_a_byte_order_mark_and_odd_separators_are_read(tmp_path: Path) -> None:
    path = tmp_path / "seeds"
    odd = [*ALPACA, {"instruction": "Say\u2028it.", "output": "It\u0085."}]
    path.write_bytes(b"\xef\xbb\xbf\n" + "\r\n\n".join(json.dumps(i, ensure_ascii=False) for i in odd).encode())
    seeds = load_seeds(str(path))
    assert len(seeds) == 9 and seeds[-1].instruction == "Say\u2028it."


@needs_foreign
def test_the_self_instruct_file_is_read() -> None:
    seeds = load_seeds(str(FOREIGN))
    assert len(seeds) >= 175
    assert all(seed.instruction and seed.output for seed in seeds)
    assert 0.2 < sum(seed.held_out for seed in seeds) / len(seeds) <= 0.3


GOOD = json.dumps(ALPACA[0]).encode()
BROKEN = [
    (GOOD + b"\n{", "line 2"),
    (GOOD + b"\n\n" + GOOD[:-1], "line 3"),
    (GOOD + b"\n7", "line 2"),
    (GOOD + b"\nnull\n", "line 2"),
    (GOOD + b"\n" + b"[" * 100_000, "line 2"),
    (GOOD + b"\n\xff\xfe", "line 2"),
    (b'{"instruction": "Do.", "output": ""}', "line 1"),
    (b'{"instruction": " ", "output": "x"}', "line 1"),
    (b'{"output": "x"}', "line 1"),
    (b'{"instruction": "Do.", "output": true}', "line 1"),
    (b'{"instruction": "Do.", "output": "x", "input": [4]}', "line 1"),
    (b'{"instruction": "Do.", "output": "x", "held_out": "yes"}', "held_out"),
    (b'{"instruction": "Do.", "instances": []}', "line 1"),
    (b'{"instruction": "Do.", "instances": [3]}', "line 1"),
    (b'{"instruction": "Do.", "instances": {"output": "x"}}', "line 1"),
    (b"[", "mine.jsonl"),
    (b"[" * 100_000, "mine.jsonl"),
    (b"[1]", "item 1"),
    (b"", "mine.jsonl"),
    (b"\n\n", "mine.jsonl"),
    (b"[]", "mine.jsonl"),
    (b"\x00\x01GGUF", "binary"),
    (b"Write a poem.\n", "line 1"),
]


@pytest.mark.parametrize(("content", "told"), BROKEN, ids=[told + f" {i}" for i, (_, told) in enumerate(BROKEN)])
def test_a_broken_file_is_named_with_the_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(SeedFileError) as refused:
        load_seeds(str(path))
    assert str(path) in refused.value.message and told in refused.value.message
    assert refused.value.fix


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(SeedFileError, match=str(path)):
            load_seeds(str(path))


@pytest.mark.parametrize("items", [ALPACA[:1], ALPACA[:3], OURS[:3], OURS[3:]])
def test_too_few_to_show_and_to_hold_out_are_refused(tmp_path: Path, items: list[Any]) -> None:
    with pytest.raises(SeedFileError):
        load_seeds(write(tmp_path / "seeds", items))


# Prompts


def test_the_shipped_prompts_have_their_places() -> None:
    texts = load_prompts()
    assert set(texts) == set(PLACEHOLDERS)
    for name, places in PLACEHOLDERS.items():
        assert all(f"{{{place}}}" in texts[name] for place in places)


def test_a_prompt_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "instructions.txt").write_text("A list.\n{tasks}\n")
    texts = load_prompts(str(tmp_path))
    assert texts["instructions"] == "A list.\n{tasks}\n"
    assert texts["quality"] == load_prompts()["quality"]


PROMPT_FAULTS = [
    ("following.txt", b"{response} {format}", "{instruction}"),
    ("quality.txt", b"{response}", "{format}"),
    ("qualty.txt", b"{response}", "qualty.txt"),
    ("instructions.txt", b"\xff", "line 1: not UTF-8"),
    ("instructions.txt", b" \n", "is empty"),
    ("instructions.txt", b"Write tasks such as {instruction}.", "is not filled in and keeps {instruction}"),
]


@pytest.mark.parametrize(("name", "content", "told"), PROMPT_FAULTS)
def test_a_prompt_file_that_cannot_serve_is_named(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / name).write_bytes(content)
    with pytest.raises(SeedFileError) as refused:
        load_prompts(str(folder))
    assert str(folder / name) in refused.value.message and told in refused.value.message
    assert "instructions.txt" in refused.value.fix


def test_a_prompts_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(SeedFileError, match="none"):
        load_prompts(str(tmp_path / "none"))


def test_what_systems_leave_in_a_prompts_folder_is_passed_over_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "._instructions.txt").write_bytes(b"\0\5\x16\7")
    assert load_prompts(str(tmp_path)) == load_prompts()
    os.mkfifo(tmp_path / "quality.txt")
    with pytest.raises(SeedFileError, match=r"quality\.txt is not a file"):
        load_prompts(str(tmp_path))
