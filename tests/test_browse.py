"""What browse reads and decides: every fate once, whatever state the folder is in; keys as a function of state."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tiny_runs import tiny_run

from minisheep import api, loop
from minisheep.data.seed_tasks import load_seeds
from minisheep.errors import UsageError
from minisheep.run.folder import RoundFolder
from minisheep.run.reading import Reader, RoundRecords, read_round
from minisheep.run.records import Draft, Instruction, Record, Response
from minisheep.terminal.pager import Page, keys, press, show
from minisheep.terminal.record_browser import (
    KEPT,
    OPEN,
    ORDERS,
    REJECTED,
    RecordFate,
    RecordFilter,
    check_rules,
    find,
    history,
    items,
    rules_of,
    select,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return tiny_run(tmp_path_factory.mktemp("browse") / "run", answers=2, eval_tasks=3, eval_answers=1)[0]


def records(run: api.Run, number: int = 1) -> RoundRecords:
    return run.rounds[number - 1].whole(Reader(run.path))


@pytest.fixture(scope="module")
def made(run: api.Run) -> list[RecordFate]:
    return items(records(run))


# Items


def test_every_answer_and_every_rejection_is_one_item(run: api.Run, made: list[RecordFate]) -> None:
    whole = run.rounds[0]
    written = [r for r in whole.rejected if r.stage == "generate"]
    assert len(made) == len(whole.responses) + len(written)
    assert sum(item.fate == KEPT for item in made) == len(whole.kept)
    assert sum(item.fate == REJECTED for item in made) == len(whole.rejected)
    assert len({item.id for item in made}) == len(made)


def test_an_item_has_the_score_and_texts_of_its_example(run: api.Run, made: list[RecordFate]) -> None:
    found = {item.id: item for item in made}
    for example in run.rounds[0].kept:
        item = found[example.id]
        assert (item.instruction, item.input, item.answer) == (example.instruction, example.input, example.output)
        assert item.score == example.score and (item.instruction_id, item.response_id) == example.parents[:2]


def test_items_stand_in_the_order_of_the_drafts(run: api.Run, made: list[RecordFate]) -> None:
    order = {draft.id: draft.index for draft in records(run).drafts}
    places = [order[item.draft] for item in made]
    assert places == sorted(places)


@pytest.mark.parametrize("phase", ["generate", "respond", "judge"])
def test_a_round_that_is_not_decided_has_open_items(tmp_path: Path, phase: str) -> None:
    half, _ = tiny_run(tmp_path / "run", until=loop.Phase(1, phase), per_round=4, eval_tasks=3, eval_answers=1)
    found = [item for item in items(records(half)) if item.fate == OPEN]
    told = {"generate": "not answered yet", "respond": "not judged yet", "judge": "not decided yet"}[phase]
    assert len(found) >= 4 and told in {item.detail for item in found}


def test_any_file_cut_anywhere_is_read_as_far_as_it_is_whole(run: api.Run, tmp_path: Path) -> None:
    import shutil

    chance = random.Random(3)
    for number in range(30):
        folder = tmp_path / str(number)
        shutil.copytree(run.path / "round-1", folder / "round-1")
        for path in sorted((folder / "round-1").glob("*.jsonl")):
            size = path.stat().st_size
            with open(path, "r+b") as file:
                if chance.random() < 0.5:
                    file.truncate(chance.randint(0, size))
                else:
                    file.seek(chance.randint(0, size - 8))
                    file.write(b"\x00\xff{}]\n[")
        before = {path: path.read_bytes() for path in sorted(folder.rglob("*.jsonl"))}
        read = read_round(1, RoundFolder(folder / "round-1"), Reader(folder))
        found = items(read)
        for item in found[:5]:
            assert not history(read, [], item.id).empty
        assert len({item.id for item in found}) == len(found)
        assert {path: path.read_bytes() for path in sorted(folder.rglob("*.jsonl"))} == before


def test_a_damaged_line_is_left_out_and_said(run: api.Run, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run.path / "round-1", tmp_path / "round-1")
    path = tmp_path / "round-1" / "kept.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first.replace(b'"score":', b'"scare":'), b"[[[[\n", *rest]))
    reader = Reader(tmp_path)
    assert len(read_round(1, RoundFolder(tmp_path / "round-1"), reader).kept) == len(rest)
    assert reader.notes == ["round-1/kept.jsonl: 2 lines left out: damaged, or of another version."]


# Selection


def test_what_is_wanted_is_what_every_flag_accepts(made: list[RecordFate]) -> None:
    assert {i.fate for i in select(made, RecordFilter(fates=(KEPT,)))} == {KEPT}
    rule = next(iter(rules_of(made)))
    stage, _, name = rule.partition(".")
    for spelled in (rule, name):
        chosen = select(made, RecordFilter(rules=(spelled,)))
        assert chosen and all(item.rule == name for item in chosen)
    assert all(item.stage == stage for item in select(made, RecordFilter(rules=(rule,))))
    scores = sorted(item.score for item in made if item.score is not None)
    low, high = scores[len(scores) // 4], scores[len(scores) // 2]
    between = select(made, RecordFilter(score_min=low, score_max=high))
    assert [i.id for i in between] == [i.id for i in made if i.score is not None and low <= i.score <= high]


def test_text_is_sought_in_all_texts_and_any_case(made: list[RecordFate]) -> None:
    item = next(item for item in made if item.answer and item.input)
    for text in (item.instruction, item.input, item.answer):
        word = max(text.split(), key=len).upper()
        assert item in select(made, RecordFilter(text=word))
    assert select(made, RecordFilter(text="no such words anywhere")) == []


@pytest.mark.parametrize("order", [name for name in ORDERS if name != "made"])
@pytest.mark.parametrize("reverse", [False, True])
def test_sorting_loses_nothing_and_puts_what_has_no_value_last(
    made: list[RecordFate], order: str, reverse: bool
) -> None:
    found = select(made, RecordFilter(), order=order, reverse=reverse)
    values = [ORDERS[order](item) for item in found]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=not reverse) and values[: len(known)] == known
    assert sorted(item.id for item in found) == sorted(item.id for item in made)


def test_a_limit_takes_the_first(made: list[RecordFate]) -> None:
    assert select(made, RecordFilter(), limit=3) == made[:3]
    assert select(made, RecordFilter(), reverse=True, limit=3) == made[::-1][:3]


def test_a_rule_that_dropped_nothing_is_a_mistake_that_names_those_that_did(made: list[RecordFate]) -> None:
    check_rules([name for rule in rules_of(made) for name in (rule, rule.partition(".")[2])], made)
    with pytest.raises(UsageError, match=next(iter(rules_of(made)))):
        check_rules(["no_such_rule"], made)


# History


def test_a_history_reaches_from_the_seeds_to_the_decision(run: api.Run) -> None:
    found, seeds = records(run), load_seeds()
    for example in found.kept[:5]:
        told = history(found, seeds, example.id)
        (answer,) = told.answers
        assert answer.decision == example and answer.verdict is not None
        assert (told.instructions[0].id, answer.response.id, answer.verdict.id) == example.parents
        assert told.draft is not None and told.draft.id == told.instructions[0].draft
        assert len(told.seeds) == 5 and all(seed is not None for _, seed in told.seeds)


def test_every_record_has_a_history_that_holds_it(run: api.Run) -> None:
    found = records(run)
    kinds: list[list[Record]] = [
        list(kind)
        for kind in (found.drafts, found.instructions, found.responses, found.verdicts, found.kept, found.rejected)
    ]
    for kind in kinds:
        assert kind
        for record in kind:
            assert record.id in json.dumps(history(found, [], record.id).to_dict())[len('{"id": "') + 16 :]


def test_an_instruction_shows_all_its_answers_and_a_draft_all_that_was_found_in_it(run: api.Run) -> None:
    found = records(run)
    assert len(history(found, [], found.instructions[0].id).answers) == 2
    told = history(found, [], found.instructions[0].draft)
    assert [i.id for i in told.instructions] == [i.id for i in found.instructions if i.draft == told.id]


def test_a_seed_that_is_gone_keeps_its_id(run: api.Run) -> None:
    found = records(run)
    told = history(found, [], found.kept[0].id)
    assert [seed for _, seed in told.seeds] == [None] * 5 and told.draft is not None
    assert tuple(name for name, _ in told.seeds) == told.draft.seeds


def test_a_prefix_finds_the_one_record_that_has_it(run: api.Run) -> None:
    for number in (1, 2):
        for record in (*records(run, number).kept[:3], *records(run, number).drafts[:3]):
            found, name = find(run.rounds, record.id[:12].upper())
            assert (found.number, name) == (number, record.id)


@pytest.mark.parametrize("prefix", ["", " ", "zzz", '"', "{"])
def test_a_prefix_that_nothing_has_is_a_mistake(run: api.Run, prefix: str) -> None:
    with pytest.raises(UsageError):
        find(run.rounds, prefix)


def test_a_prefix_that_several_have_names_some(run: api.Run) -> None:
    with pytest.raises(UsageError):
        find(run.rounds, next(iter(records(run).kept)).id[0])


# Keys

KEYS = ["n", "p", "j", "k", " ", "g", "G", "\r", "\x1b[A", "\x1b[B", "\x1b[5~", "\x1b[6~", "x", "é", ""]


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 40), st.lists(st.sampled_from([*KEYS, "q"]), max_size=40))
def test_whatever_is_pressed_the_cursor_can_be_seen(count: int, height: int, length: int, keys: list[str]) -> None:
    page: Page | None = Page(count)
    for key in keys:
        assert page is not None
        was_open = page.opened
        page = press(page, key, height, length)
        if page is None:
            assert key == "q" and not was_open
            return
        assert 0 <= page.cursor < count and page.top <= page.cursor < page.top + height
        assert 0 <= page.offset <= max(0, length - height)


def test_keys_page_open_and_leave() -> None:
    page = press(Page(25), "n", 10)
    assert page is not None and page.cursor == 10
    page = press(page, "\x1b[B", 10)
    assert page is not None and (page.cursor, page.top) == (11, 2)
    page = press(page, "\r", 10)
    assert page is not None and page.opened
    page = press(page, " ", 10, 35)
    assert page is not None and page.offset == 10
    page = press(page, "n", 10, 35)
    assert page is not None and (page.cursor, page.offset, page.opened) == (12, 0, True)
    page = press(page, "q", 10)
    assert page is not None and not page.opened
    assert press(page, "q", 10) is None


def test_several_keys_in_one_read_all_count() -> None:
    assert keys("jj\x1b[B\x1bOB\x1b[6~\rq\x1b") == ["j", "j", "\x1b[B", "\x1bOB", "\x1b[6~", "\r", "q", "\x1b"]


@pytest.mark.parametrize("long", [1, 60])
def test_a_record_opens_with_its_answer_on_the_first_screen(long: int) -> None:
    """Seen through the pager itself, all keys in one read."""
    draft = Draft(1, 0, ("seed-a",), "a draft\n" * 40, "stop")
    instruction = Instruction(1, draft.id, 0, "Say what is asked.\n" * long, "", 0.1)
    response = Response(instruction.id, 0, "THE ANSWER", "stop", 3)
    records = RoundRecords(1, [draft], [instruction], [response], [], [], [], [], [])
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, height=24, highlight=False, markup=False)
    reads = iter(["jk\r", "qq"])
    found = items(records)
    show(found, "runs/x", lambda item: history(records, [], item.id), lambda: next(reads), console)
    assert "THE ANSWER" in stream.getvalue().split("record 1 of 1")[1] and next(reads, None) is None
