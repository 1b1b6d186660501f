"""What a report finds and advises: one state for each subject, and commands that can be typed as they stand."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from tiny_rounds import COLLAPSED, HEALTHY, measured
from tiny_runs import minisheep, tiny_run

from minisheep import config
from minisheep.cli.main import cli
from minisheep.report import findings
from minisheep.report.blocks import Block, Items
from minisheep.report.gather import Gathered, gather
from minisheep.run.events import Note, PhaseFinished, PhaseStarted, RunStarted, to_dict
from minisheep.run.events import TrainStep as Step

OLD_RUN = Path(__file__).parent / "data" / "run-0.1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of the fake engine, with an exam, in a folder whose name a shell would take apart. Tests must not
    change it."""
    path = tmp_path_factory.mktemp("findings") / "a run's"
    tiny_run(path, judge="auto", exam_tasks=8, force=True)
    return path


@pytest.fixture(scope="module")
def read(finished: Path) -> Gathered:
    return gather(finished)


def signs(**changed: Any) -> dict[str, Any]:
    """A judge's health, in which nothing is wrong but what is `changed`."""
    return {"judge": "pmi", "judged": 60, "scored": 60, "saturation": 0.1, "spread": 1.0, "invalid": 0.0,
            "length": None, "agreement": None, "agreement_pairs": 0} | changed  # fmt: skip


HEALTH = {
    "none": None,
    "healthy": signs(),
    "few": signs(judged=4, scored=4),
    "one sign": signs(judge="logits", saturation=0.9),
    "two signs": signs(judge="logits", saturation=0.9, length=0.8),
}
FIRST = measured(1, 100, HEALTHY)
VARIETY = {
    "none": (None, None),
    "one": (FIRST, None),
    "varied": (FIRST, measured(2, 100, HEALTHY, 2)),
    "few": (measured(1, 1, HEALTHY), measured(2, 1, HEALTHY, 2)),
    "collapsed": (FIRST, measured(2, 100, COLLAPSED["openings"], 2)),
}
OUTCOMES = ("gain", "none", "mixed", "loss", "")


def exam_of(read: Gathered, *, passed: bool) -> Any:
    exam = read.rounds[0].exam
    assert exam is not None
    return dataclasses.replace(exam, judges={n: dataclasses.replace(m, passes=passed) for n, m in exam.judges.items()})


def with_facts(read: Gathered, exam: str, health: str, variety: str, outcome: str) -> Gathered:
    """The run, had it come to this in every round."""
    taken = None if exam == "none" else exam_of(read, passed=exam == "passed")
    rounds = []
    for r, diversity in zip(read.rounds, VARIETY[variety], strict=True):
        decision = {"against": 0, "outcome": outcome, "best": 0, "measures": {}} if outcome else {}
        metrics = {**(r.metrics or {}), "decision": decision}
        rounds.append(dataclasses.replace(r, exam=taken, health=HEALTH[health], diversity=diversity, metrics=metrics))
    return dataclasses.replace(read, all_rounds=(read.all_rounds[0], *rounds), warnings=())


EVERYTHING = list(itertools.product(("none", "passed", "failed"), HEALTH, VARIETY, OUTCOMES))


def test_no_two_findings_contradict_each_other_whatever_the_run_came_to(read: Gathered) -> None:
    for exam, health, variety, outcome in EVERYTHING:
        found = findings.decided(with_facts(read, exam, health, variety, outcome))
        levels = defaultdict(set)
        for finding in found:
            levels[finding.subject].add(finding.level)
        assert all(not {"good", "warning"} <= both for both in levels.values()), (exam, health, variety, outcome)
        about_judge = [f for f in found if f.subject.startswith("judge")]
        good = any(f.level == "good" for f in about_judge)
        assert good == (exam == "passed" and "sign" not in health)
        assert bool(about_judge) == ((exam, health) != ("none", "none"))
        assert any(f.level == "warning" for f in about_judge) == (exam == "failed" or "sign" in health)
        said = " ".join(f.text for f in found if f.subject == "collapse")
        assert ("No sign of collapse" in said) == (variety == "varied")
        assert ("not measured" in said) == (variety == "none")
        assert levels["collapse"] == {{"varied": "good", "collapsed": "warning"}.get(variety, "plain")}


def test_a_judges_bad_signs_are_said_once_though_the_run_warned_of_them(read: Gathered) -> None:
    run = with_facts(read, "none", "two signs", "none", "")
    told = [f.text for f in findings.decided(run) if f.subject == "judge of round 1"]
    again = dataclasses.replace(run, warnings=tuple(told))
    (items, *_) = findings.findings_blocks(again)
    assert isinstance(items, Items) and len(told) == 2
    assert sorted(item.text for item in items.items if item.text in told) == sorted(told)


def test_a_phase_that_was_begun_anew_takes_its_old_warnings_with_it(tmp_path: Path, finished: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.toml").write_bytes((finished / "run.toml").read_bytes())
    events = [
        RunStarted(str(run), "m", 2, "fake", "fake", resumed=False), Note("before", "warning"),
        PhaseStarted(1, "exam", 8, 0, "tasks"), Note("the old exam", "warning"), Note("said again", "warning"),
        PhaseFinished(1, "exam", 1.0, {}), PhaseStarted(1, "judge", 8, 0, "pairs"), Note("half", "warning"),
        RunStarted(str(run), "m", 2, "fake", "fake", resumed=True), Note("between", "warning"),
        PhaseStarted(1, "judge", 8, 4, "pairs"), PhaseStarted(1, "exam", 8, 0, "tasks"), Note("said again", "warning"),
    ]  # fmt: skip
    (run / "events.jsonl").write_text("".join(json.dumps({"time": 1.0, **to_dict(e)}) + "\n" for e in events))
    assert set(gather(run).warnings) == {"before", "said again", "half", "between"}


def test_a_decision_of_an_earlier_version_is_told_in_todays_words() -> None:
    texts = [f.text for f in findings.decided(gather(OLD_RUN)) if f.subject == "gain of round 2"]
    assert len(texts) == 1 and "Following constraints: no clear change (0 points, 95 % CI 0 to 0)." in texts[0]
    assert "own words" not in texts[0]


def words_of(blocks: Iterable[Block]) -> str:
    return json.dumps([dataclasses.asdict(block) for block in blocks], ensure_ascii=False)


def test_answers_that_are_cut_off_are_advised_about(read: Gathered) -> None:
    last = read.rounds[-1]
    cut = [dataclasses.replace(r, finish="length", id="") for r in last.responses]
    ill = dataclasses.replace(read, all_rounds=(dataclasses.replace(last, responses=cut),))
    assert "100% of round 2's answers were cut off at 80 tokens" in words_of(findings.advice_blocks(ill))


def test_warnings_of_the_run_are_repeated_once(read: Gathered) -> None:
    noisy = dataclasses.replace(read, warnings=tuple(f"Odd thing {n}." for n in range(40)))
    said = words_of(findings.findings_blocks(noisy))
    assert "Odd thing 29." in said and "Odd thing 30." not in said and "10 more warnings" in said


def test_a_bad_judge_is_advised_about(read: Gathered) -> None:
    said = words_of(findings.advice_blocks(with_facts(read, "failed", "one sign", "none", "none")))
    assert "--keep top:0.3" in said and "--answers 4" in said and "failed its exam" in said


def test_an_english_benchmark_is_advised_for_an_english_run_alone(
    read: Gathered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "MOST", 99)
    assert read.settings is not None
    chinese = dataclasses.replace(read, settings=read.settings.model_copy(update={"language": "zh"}))
    assert "--tasks ifeval" in words_of(findings.advice_blocks(read))
    said = words_of(findings.advice_blocks(chinese))
    assert "ifeval" not in said and "--tasks NAME" in said and "in its language" in said


# Commands


def advised(read: Gathered) -> Iterator[tuple[str, str]]:
    """Text and command of every piece of advice, over runs in which everything is wrong that can be advised about."""
    last = read.rounds[-1]
    cut = [dataclasses.replace(r, finish="length", id="") for r in last.responses]
    rising = tuple(Step(2, n, 3, 1.0, 0.0, 10.0, loss) for n, loss in enumerate((1.0, 0.5, 0.9), 1))
    similar = [dataclasses.replace(x, rule="too_similar", id="") for x in last.rejected] * 9
    worst = dataclasses.replace(last, responses=cut, steps=rising, rejected=similar)
    ill = with_facts(read, "failed", "two signs", "collapsed", "gain")
    ill = dataclasses.replace(ill, all_rounds=(*ill.all_rounds[:-1], dataclasses.replace(
        ill.all_rounds[-1], responses=cut, steps=rising, rejected=similar)))  # fmt: skip
    unfinished = dataclasses.replace(read, phases={})
    for run in (read, ill, unfinished, dataclasses.replace(read, all_rounds=(read.all_rounds[0], worst))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(findings, "MOST", 99)
            (block,) = findings.advice_blocks(run)
        assert isinstance(block, Items)
        yield from ((item.text, item.command) for item in block.items)


def parsed(command: str) -> click.Context:
    """The command as click reads it. Raises `click.UsageError` for one that it refuses."""
    name, verb, *given = shlex.split(command)
    assert name == "minisheep"
    found = cli.get_command(click.Context(cli), verb)
    assert found is not None, command
    return found.make_context(verb, given)


def test_every_advised_command_can_be_typed_as_it_stands(read: Gathered) -> None:
    commands = {part for _, command in advised(read) if command for part in command.split(" && ")}
    assert len(commands) >= 10
    for command in commands:
        values = parsed(command).params
        if values.get("config_file"):
            # What the run had stays, but for what is advised.
            stored = config.read_toml(Path(values["config_file"]))
            asked = {n: v for n, v in values.items() if n in config.names() and v is not None}
            assert stored["per_round"] == 12 and 1 <= len(asked) <= 2, command
            config.make(stored | asked)
            assert values["run_option" if "run_option" in values else "run"].startswith(f"{read.path}-")


def test_every_flag_that_a_finding_names_is_one_of_align(read: Gathered) -> None:
    known = {flag for verb in ("align", "versus", "eval") for flag in _flags(verb)}
    runs = [with_facts(read, *facts) for facts in EVERYTHING[::7]]
    said = [f.text for run in runs for f in findings.decided(run)] + [text for text, _ in advised(read)]
    named = {flag for text in said for flag in re.findall(r"--[a-z][a-z-]+", text)}
    assert len(named) > 4 and named <= known


def _flags(verb: str) -> set[str]:
    found = cli.get_command(click.Context(cli), verb)
    assert found is not None
    return {option for parameter in found.params for option in parameter.opts}


def test_the_first_advice_for_more_data_makes_a_run_with_the_settings_of_the_old_one(
    read: Gathered, tmp_path: Path
) -> None:
    command = next(c for _, c in advised(read) if "--per-round" in c)
    given = shlex.split(command)[1:]
    place = given.index("--run") + 1
    given[place], given[given.index("--per-round") + 1] = str(tmp_path / "more"), "14"
    minisheep(*given, "--plain", check=True)
    assert read.settings is not None
    new = gather(tmp_path / "more")
    assert new.settings == read.settings.model_copy(update={"per_round": 14}) and new.next_phase is None
    minisheep("compare", str(read.path), str(tmp_path / "more"), check=True)
