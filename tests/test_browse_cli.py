"""`minisheep browse` as it is typed, and ten thousand hostile texts through it."""

from __future__ import annotations

import io
import json
import random
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from hostile import SGR, hostile
from measured_runs import measured_run
from rich.console import Console
from test_ui import UNSAFE
from tiny_runs import tiny_run

from minisheep import api
from minisheep.cli.main import main
from minisheep.run.folder import RunFolder, replace_records
from minisheep.run.reading import Reader
from minisheep.run.records import Draft, Example, Instruction, Rejection, Response, Verdict
from minisheep.terminal import pager
from minisheep.terminal.record_browser import MEANINGS, history, items


class Said(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Said]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*args: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["minisheep", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return tiny_run(tmp_path_factory.mktemp("browse") / "run", eval_tasks=3, eval_answers=1)[0]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A run of two rounds whose model wrote nothing but hostile texts: some 10,000 of them."""
    chance = random.Random(21)
    made = measured_run(tmp_path_factory.mktemp("bad") / "run", [0.2, 0.3, 0.4])
    for number in (1, 2):
        folder = RunFolder(made.path).round(number)
        drafts, instructions, responses, verdicts, kept, rejected = [], [], [], [], [], []
        for index in range(350):

            def text() -> str:
                return hostile(chance)

            draft = Draft(number, index, (text(), text()), text(), text())
            instruction = Instruction(number, draft.id, index, text(), text(), 0.5)
            response = Response(instruction.id, 0, text(), text(), 3)
            verdict = Verdict(response.id, text(), None, None, chance.random(), {text(): text(), "n": 1.5})
            parents = (instruction.id, response.id, verdict.id)
            drafts.append(draft)
            instructions.append(instruction)
            responses.append(response)
            verdicts.append(verdict)
            if index % 2:
                kept.append(Example(text(), text(), text(), [], 1.0, None, None, text(), parents))
            else:
                rejected.append(Rejection("filter", text(), text(), response.id, 0, text(), text(), text()))
            rejected.append(Rejection(text(), text(), text(), draft.id, index, text(), text(), text()))
        for path, found in (
            (folder.drafts, drafts), (folder.instructions, instructions), (folder.responses, responses),
            (folder.verdicts, verdicts), (folder.kept, kept), (folder.rejected, rejected),
        ):  # fmt: skip
            replace_records(path, found)  # type: ignore[arg-type]
    return made


def test_without_a_terminal_each_record_is_one_line(call: Call, run: api.Run) -> None:
    said = call("browse", str(run.path))
    made = [item for r in run.rounds for item in items(r.whole(Reader(run.path)))]
    assert said.code == 0 and said.out.splitlines() == [pager.line(item) for item in made]


def test_the_marks_of_what_was_dropped_are_told_in_words_where_they_disturb_nobody(call: Call, run: api.Run) -> None:
    every = call("browse", str(run.path))
    rules = {f"{item.stage}.{item.rule}" for r in run.rounds for item in items(r.whole(Reader(run.path))) if item.rule}
    assert rules and every.err.splitlines() == [
        f"{rule.partition('.')[2]}: {what}" for rule, what in MEANINGS.items() if rule in rules
    ]
    one = json.loads(call("browse", str(run.path), "--rejected", "--limit", "1", "--json").out.splitlines()[0])
    history = call("browse", str(run.path), one["id"]).out
    assert f"which drops what {MEANINGS[one['stage'] + '.' + one['rule']]}" in history
    assert call("browse", str(run.path), "--kept").err == ""


def test_filters_and_order_are_obeyed(call: Call, run: api.Run) -> None:
    args = ["--round", "2", "--kept", "--sort", "score", "--limit", "3", "--json"]
    found = [json.loads(line) for line in call("browse", str(run.path), *args).out.splitlines()]
    scores = [item["score"] for item in found]
    assert len(found) == 3 and {item["fate"] for item in found} == {"kept"} and {i["round"] for i in found} == {2}
    assert scores == sorted(scores, reverse=True)
    lowest = call("browse", str(run.path), "--score-min", str(scores[0]), "--round", "2", "--json").out.splitlines()
    assert found[0] in [json.loads(line) for line in lowest]


def test_an_id_shows_the_whole_history(call: Call, run: api.Run) -> None:
    example = run.rounds[0].kept[0]
    said = call("browse", str(run.path), example.id[:10])
    headings = [line for line in said.out.splitlines() if not line.startswith(" ")]
    assert [line.split()[0].rstrip(",") for line in headings] == [
        "instruction", "answer", "verdict", "kept", "draft", *["seed"] * 5,
    ]  # fmt: skip
    assert f"  {example.instruction}" in said.out.splitlines()
    told = json.loads(call("browse", str(run.path), example.id, "--json").out)
    assert told["answers"][0]["decision"]["id"] == example.id and len(told["seeds"]) == 5


MISTAKES: dict[str, tuple[list[str], str]] = {
    "round": (["--round", "7"], "has begun rounds 1, 2"),
    "rule": (["--rule", "nothing"], "dropped nothing here"),
    "id": (["zzzz"], "No record's id begins"),
    "order": (["--sort", "luck"], "luck"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_is_one_line(call: Call, run: api.Run, name: str) -> None:
    args, told = MISTAKES[name]
    said = call("browse", str(run.path), *args)
    assert (said.code, said.out) == (2, "") and told in said.err and len(said.err.splitlines()) == 1


def test_what_matches_nothing_is_said_and_is_no_mistake(call: Call, run: api.Run) -> None:
    said = call("browse", str(run.path), "--text", "no such words anywhere")
    assert (said.code, said.out) == (0, "") and said.err


def test_what_is_damaged_is_left_out_and_told(call: Call, run: api.Run, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run.path, tmp_path / "run")
    path = tmp_path / "run" / "round-1" / "kept.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first[:-20] + b"\n", *rest]))
    said = call("browse", str(tmp_path / "run"), "--kept", "--round", "1")
    assert said.code == 0 and len(said.out.splitlines()) == len(rest) and "1" in said.err
    lost = call("browse", str(tmp_path / "run"), json.loads(first)["id"])
    assert lost.code == 1 and "damaged" in lost.err


def test_a_seed_file_that_is_gone_is_told_and_the_history_shown(call: Call, run: api.Run, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run.path, tmp_path / "run")
    settings = tmp_path / "run" / "run.toml"
    settings.write_text(settings.read_text().replace('seeds = ""', 'seeds = "gone.jsonl"'))
    said = call("browse", str(tmp_path / "run"), run.rounds[0].kept[0].id)
    assert said.code == 0 and "gone.jsonl" in said.err and "no longer among the seed tasks" in said.out


def test_browsing_writes_nothing(call: Call, run: api.Run) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(run.path.rglob("*"))}

    before = state()
    call("browse", str(run.path))
    call("browse", str(run.path), run.rounds[0].kept[0].id)
    assert state() == before


# Hostile texts


def test_a_list_of_hostile_records_is_text_one_line_each(call: Call, bad: api.Run) -> None:
    said = call("browse", str(bad.path))
    assert len(said.out.splitlines()) == 1400 and not UNSAFE.search(said.out) and said.err == ""
    found = call("browse", str(bad.path), "--json").out
    assert found.isascii() and len(found.splitlines()) == 1400


def test_a_rule_of_hostile_name_is_named_safely(call: Call, bad: api.Run) -> None:
    said = call("browse", str(bad.path), "--rule", "\x1b[2J")
    assert said.code == 2 and len(said.err.splitlines()) == 1 and not UNSAFE.search(said.err)


def test_hostile_histories_are_text(bad: api.Run) -> None:
    for found in bad.rounds:
        records = found.whole(Reader(bad.path))
        records = replace(records, verdicts=records.verdicts[:60], responses=records.responses[:60])
        ids = [r.id for kind in (records.responses, records.drafts, records.rejected[:120]) for r in kind]
        for id in ids:
            for heading, body in pager.sections(history(records, [], id)):
                assert not UNSAFE.search(heading + body) and "\n" not in heading, ascii(heading)


@pytest.mark.parametrize("width", [9, 40, 100])
def test_paging_through_hostile_records_writes_text_and_colours(bad: api.Run, width: int) -> None:
    chance = random.Random(width)
    found = bad.rounds[0]
    records = found.whole(Reader(bad.path))
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, height=12, highlight=False, markup=False)
    keys = iter([key for _ in range(15) for key in chance.choice([["n"], ["j"], ["\r", " ", "n", "j", "q"]])])

    def read_key() -> str:
        key = next(keys, None)
        if key is None:
            raise EOFError
        return key

    pager.show(items(records), "title \x1b[2J", lambda item: history(records, [], item.id), read_key, console)
    own = SGR.sub("", stream.getvalue())
    own = re.sub(r"\x1b\[(\?1049[hl]|\?25[hl]|H)", "", own)
    assert not UNSAFE.search(own), ascii(UNSAFE.search(own))
    assert next(keys, None) is None


def test_a_page_fills_the_screen_and_shows_its_keys(bad: api.Run) -> None:
    records = bad.rounds[0].whole(Reader(bad.path))
    found = items(records)
    lines = pager.list_lines(found, pager.Page(len(found), 3), "runs/x", 100, 10)
    assert len(lines) == 12 and "4 of 700" in lines[0].plain and "q leaves" in lines[-1].plain
    assert all(line.cell_len == 100 for line in lines[:-1])
    text = pager.history_text(history(records, [], found[0].id), Console(width=100), 100)
    shown = pager.record_lines(text, pager.Page(len(found), opened=True), 100, 10)
    assert len(shown) == 12 and shown[1].plain.startswith("instruction")


def test_at_least_ten_thousand_hostile_texts_were_read(bad: api.Run) -> None:
    records = [found.whole(Reader(bad.path)) for found in bad.rounds]
    texts = sum(
        4 * len(r.drafts) + 2 * len(r.instructions) + 2 * len(r.responses) + 3 * len(r.verdicts) for r in records
    )
    texts += sum(4 * len(r.kept) + 6 * len(r.rejected) for r in records)
    assert texts >= 10_000
