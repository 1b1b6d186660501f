"""Whatever is wrong with a run folder, every verb that reads it ends with a clear line, never with a traceback."""

from __future__ import annotations

import random
import shutil
import traceback
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mutated_runs import mutate
from tiny_runs import ONLY, case, chosen, tiny_run

from minisheep import api, loop
from minisheep.cli.main import cli
from minisheep.errors import ConfigError, CorruptRunError, MinisheepError, UsageError
from minisheep.models.prepared import PreparedModel
from minisheep.run.files import read_json, write_json

VERSUS = {
    "run": "run", "ours": "round 2", "theirs": "base", "mode": "pair", "prompts": "held-out tasks", "judge": "j",
    "judge_url": "http://x", "judgements": "file", "pairs": 3, "won": 1, "tied": 1, "lost": 1, "same_answer": 0,
    "unreadable": 0, "first_place_twice": 0, "second_place_twice": 1, "judged_pairs": 3, "words_ours": 3.0,
    "words_theirs": 4.0, "longer_won": 1, "decided_of_different_length": 2,
    "win_rate": {"value": 0.5, "low": 0.1, "high": 0.9},
}  # fmt: skip
EVAL = {"task": "ifeval", "round": 1, "metrics": {"acc": {"value": 0.5, "low": 0.4, "high": 0.6}}}
VERBS = (
    ("status", "{run}"),
    ("status", "{run}", "--json"),
    ("runs", "{run}"),
    ("runs", "{run}", "--json"),
    ("stop", "{run}"),
    ("attach", "{run}", "--plain"),
    ("attach", "{run}", "--json"),
    ("browse", "{run}", "--plain"),
    ("browse", "{run}", "--json"),
    ("compare", "{run}"),
    ("compare", "{run}", "{other}", "--json"),
    ("report", "{run}", "--json"),
    ("export", "{run}", "--to", "gguf"),
    ("handoff", "{run}", "--to", "axolotl"),
    ("versus", "{run}", "--judge-url", "http://127.0.0.1:1/v1", "--judge-model-name", "m"),
    ("align", "--run", "{run}", "--dry-run"),
)
"""What is asked of each folder; `align` comes last, since it changes it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    tiny_run(run, judge="auto", exam_tasks=12, exam_auc=0.5, exam_kind=0)
    for name in ("judged", "eval"):
        (run / name).mkdir()
    write_json(run / "judged" / "j-pair-round-2-base.json", VERSUS)
    write_json(run / "eval" / "ifeval-round-1.json", EVAL)
    return run


def said(verb: tuple[str, ...], run: Path, other: Path) -> str:
    """Asks for a verb in this process. Returns a fault's name, or nothing where it ended as a verb should."""
    words = [word.format(run=run, other=other) for word in verb]
    found = CliRunner().invoke(cli, words, standalone_mode=False)
    error = found.exception
    if error is None or isinstance(error, MinisheepError | OSError | SystemExit):
        return ""
    if type(error).__module__.startswith("click"):
        return ""
    return traced(error)


def traced(error: BaseException) -> str:
    """A fault with where it came from."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__}: {str(error)[:300]} ({places})"


@pytest.mark.timeout(7200)  # minutes of work, of which a busy machine may make hours; 6,000 get a day
@pytest.mark.parametrize("count", [60, pytest.param(6000, marks=[pytest.mark.slow, pytest.mark.timeout(24 * 3600)])])
def test_no_damage_ends_in_a_traceback(whole: Path, tmp_path: Path, count: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("minisheep.prepare._prepare_real", None)
    monkeypatch.setattr("minisheep.prepare.versions", dict)
    # Pictures take most of a report's time, and read nothing.
    monkeypatch.setattr("minisheep.report.plots.available", lambda: False)
    monkeypatch.chdir(tmp_path)
    faults: list[str] = []
    for number in chosen(count):
        run = tmp_path / f"run-{number}"
        shutil.copytree(whole, run)
        chance = random.Random(number)
        what = " and ".join(mutate(run, chance) for _ in range(chance.choice((1, 1, 2))))
        # A few verbs each, so that all see many folders; then the run itself goes on, or says why not.
        verbs = VERBS if count > 100 else chance.sample(VERBS, 4)
        with case(number, what) as told:
            for verb in verbs:
                told[:] = [f"verb: {' '.join(verb)}"]
                if fault := said(verb, run, whole):
                    faults.append(f"{ONLY}={number}: {what}: {verb[0]}: {fault}")
            told[:] = ["verb: align"]
            try:
                api.align(run, inline=True, rounds=2)
            except (MinisheepError, OSError):
                pass
            except Exception as error:
                faults.append(f"{ONLY}={number}: {what}: align: {traced(error)}")
        shutil.rmtree(run)
    assert not faults, "\n".join(faults[:20]) + f"\n{len(faults)} in all"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("rounds = ", f"rounds = {'9' * 40} #", "less than or equal to 1000"),  # was counted through, without an end
        ("per_round = ", "per_round = -5 #", "greater than or equal to 1"),
    ],
)
def test_a_setting_in_a_run_folder_that_is_none_is_blamed_on_the_file(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    path = tiny_run(tmp_path / "run", until=loop.Phase(1, "generate"))[0].path / "run.toml"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    for verb in ("status", "browse", "compare"):
        shown = CliRunner().invoke(cli, [verb, str(path.parent)])
        assert isinstance(shown.exception, ConfigError)
        assert told in shown.exception.message and f"{path} holds" in shown.exception.message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"a":' * 50_000, "nested too deeply"),
        (f'{{"a": {"9" * 5000}}}', "a number of thousands of digits"),
        ("{\n]", "at line 2, character 1"),
        (None, "is a folder"),
    ],
)
def test_damaged_json_is_told_in_words_of_the_file(tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "manifest.json"
    path.mkdir() if content is None else path.write_text(content, encoding="utf-8")
    with pytest.raises(CorruptRunError, match=told):
        read_json(path)


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("run.toml", lambda text: text + "warp_speed = 9\n", "newer minisheep"),
        ("run.toml", None, "Restore it from a copy"),
        ("model.json", lambda text: text.replace("{", '{"warp": 9,', 1), "'warp' is unknown here; a newer minisheep"),
    ],
)
def test_a_run_of_another_version_is_told_as_such(tmp_path: Path, file: str, change: Any, told: str) -> None:
    path = tiny_run(tmp_path / "run", until=loop.Phase(0, "evaluate"))[0].path / file
    text = path.read_text(encoding="utf-8")
    path.unlink() if change is None else path.write_text(change(text), encoding="utf-8")
    with pytest.raises(MinisheepError) as refused:
        PreparedModel.read(path) if file == "model.json" else api.load_run(path.parent).settings
    assert told in str(refused.value) and str(path) in refused.value.message


def test_rubbish_in_the_variable_of_these_tests_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rubbish in ("rubbish", "abort:generate:x", "a:b:c:d"):
        monkeypatch.setenv("MINISHEEP_FAULT", rubbish)
        with pytest.raises(UsageError, match="for tests"):
            tiny_run(tmp_path / "run")
