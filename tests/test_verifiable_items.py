"""minisheep's own verifiable prompts can be kept and broken; others' files are read, and a fault names its place."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from minisheep.data.seed_tasks import load_items, load_seeds
from minisheep.errors import ConfigError
from minisheep.rules.ifeval import KINDS, VerifiableItem, loose, strict
from minisheep.rules.similarity import NoveltyIndex

ANSWERS: dict[str, dict[str, str]] = {
    row["id"]: row
    for row in map(json.loads, (Path(__file__).parent / "verifiable_answers.jsonl").read_text("utf-8").splitlines())
}
OWN = load_items()


def test_there_are_enough_prompts_of_all_kinds() -> None:
    assert len(OWN) >= 150
    number = Counter(len(item.checks) for item in OWN)
    assert number[1] > len(OWN) / 2 and number[2] >= 50 and number[3] >= 10 and set(number) == {1, 2, 3}
    kinds = Counter(check.kind for item in OWN for check in item.checks)
    assert set(kinds) == set(KINDS) and min(kinds.values()) >= 4


def test_every_prompt_has_answers_written_by_hand() -> None:
    assert list(ANSWERS) == [item.id for item in OWN]


@pytest.mark.parametrize("item", OWN, ids=lambda item: item.id)
def test_a_prompt_can_be_kept_and_broken(item: VerifiableItem) -> None:
    assert all(strict(item, ANSWERS[item.id]["passes"]))
    assert not all(loose(item, ANSWERS[item.id]["fails"]))


def test_no_constraint_of_a_prompt_is_given_twice() -> None:
    for item in OWN:
        assert len({check.kind for check in item.checks}) == len(item.checks), item.id


def test_no_two_prompts_are_alike_and_none_resembles_a_seed() -> None:
    index = NoveltyIndex(seed.instruction for seed in load_seeds())
    for item in OWN:
        similarity, _ = index.nearest(item.prompt)
        assert similarity < 0.7, f"{item.id}: {similarity:.2f}"
        index.add(item.prompt)


def test_prompts_are_tidy() -> None:
    for item in OWN:
        assert item.prompt == item.prompt.strip() and "\t" not in item.prompt and "  " not in item.prompt, item.id


# Others' files


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


GOOD = {"id": "a", "prompt": "Ask.", "checks": [{"kind": "punctuation:no_comma"}]}
IFEVAL = {
    "key": 7,
    "prompt": "Ask.",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{"num_words": None}, {"num_words": 3, "relation": "less than", "keyword": None}],
}


def test_both_formats_are_read_side_by_side(tmp_path: Path) -> None:
    ours, theirs = load_items(write(tmp_path / "f", [GOOD, IFEVAL]))
    assert (ours.id, theirs.id, theirs.prompt) == ("a", "7", "Ask.")
    assert strict(ours, "a, b") == (False,)
    assert strict(theirs, "a b") == (True, True)


def test_blank_lines_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbf\n" + json.dumps(GOOD).encode() + b"\r\n\n")
    assert len(load_items(str(tmp_path / "f"))) == 1


BAD_CHECK = {**GOOD, "checks": [{"kind": "keywords:existence", "arguments": {"keywords": "x"}}]}
FAULTS: list[tuple[bytes, str]] = [
    (b"", "mine.jsonl"),
    (b"\n\xff", "line 2"),
    (b"{", "line 1"),
    (b"[" * 100_000, "line 1"),
    (b"[1]", "line 1"),
    *(
        (json.dumps(row).encode(), told)
        for row, told in [
            ({**GOOD, "id": ""}, "line 1"),
            ({**GOOD, "id": None}, "line 1"),
            ({**GOOD, "id": True}, "line 1"),
            ({**GOOD, "prompt": " "}, "line 1"),
            ({**GOOD, "prompt": 3}, "line 1"),
            ({**GOOD, "checks": []}, "line 1"),
            ({"id": "a", "prompt": "Ask."}, "line 1"),
            ({**GOOD, "checks": ["x"]}, "line 1"),
            ({**GOOD, "checks": [{"kind": 3}]}, "line 1"),
            ({**GOOD, "checks": [{"kind": "x", "arguments": []}]}, "line 1"),
            ({**GOOD, "checks": [{"kind": "punctuation:no_coma"}]}, "item a"),
            (BAD_CHECK, "keywords:existence: keywords 'x'"),
            ({**IFEVAL, "kwargs": [{}]}, "instruction_id_list"),
            ({**IFEVAL, "kwargs": None}, "instruction_id_list"),
            ({**IFEVAL, "kwargs": [{}, None]}, "line 1"),
        ]
    ),
    (json.dumps(GOOD).encode() + b"\n" + json.dumps(GOOD).encode(), "line 2"),
]


@pytest.mark.parametrize(("content", "told"), FAULTS, ids=range(len(FAULTS)))
def test_a_fault_is_named_with_its_place(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        load_items(str(path))
    assert str(path) in refused.value.message and told in refused.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError):
            load_items(str(path))
