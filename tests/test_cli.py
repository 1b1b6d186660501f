"""The command line: quick help, one line for every mistake, JSON that is only JSON."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from gguf_builder import Tiny, pair, tiny_gguf
from tiny_runs import flags, minisheep, outcome, tiny_run

from minisheep import api, config, loop
from minisheep.cli.main import VERBS, main
from minisheep.cli.options import fitted
from minisheep.host import InlineHost

STORED = Path(__file__).parent / "data" / "run-0.1"


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every line of stdout as JSON; fails where one is none."""
        return [json.loads(line) for line in self.out.splitlines()]


Call = Callable[..., Said]


class HostInThisProcess(InlineHost):
    """In the place of workers, to save their start."""

    def __init__(self, lock: int, tick: Callable[[], None]) -> None:
        super().__init__()


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process, as a terminal that is no terminal sees it."""
    monkeypatch.setattr(api, "WorkerHost", HostInThisProcess)
    # Whatever a test gets wrong, no real model may start.
    monkeypatch.setattr("minisheep.prepare._prepare_real", None)

    def run(*args: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["minisheep", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        said = capsys.readouterr()
        return Said(code if isinstance(code, int) else 1, said.out, said.err)

    return run


def tiny(run: Path | str, **settings: Any) -> list[str]:
    return ["--run", str(run), "--preset", "imitation", *flags(per_round=4, eval_tasks=3, eval_answers=1, **settings)]


# Help


HEAVY = ["torch", "transformers", "llama_cpp", "peft", "pydantic", "rich", "numpy", "jinja2"]


def loaded(names: Sequence[str], *words: str) -> tuple[list[str], str]:
    """Which of these modules a command imports, and what it prints."""
    code = (
        f"import sys; sys.argv = ['minisheep', *{words!r}]\n"
        "from minisheep.cli.main import main\n"
        "try: main()\n"
        f"except SystemExit: print('loaded', *[m for m in {names!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return done.stderr.splitlines()[-1].split()[1:], done.stdout


def test_help_imports_nothing_that_takes_time() -> None:
    found, said = loaded(HEAVY, "--help")
    assert found == [] and "minisheep align --preset demo" in said


def test_a_run_and_who_looks_at_it_stay_small_beside_the_workers(tmp_path: Path) -> None:
    """Beside the interval of a change, for which numpy draws, they need nothing that makes texts or models."""
    names = [*HEAVY[:4], "rapidfuzz"]
    run = tmp_path / "run"
    for words in (["align", *tiny(run), "--rounds", "1", "--plain"], ["status", str(run)], ["runs", str(tmp_path)]):
        found, said = loaded(names, *words)
        assert found == [] and "run" in said, words


def test_help_answers_at_once() -> None:
    """Measured in processor time against a bare click, since what else the machine does slows both."""

    def seconds(*command: str) -> float:
        took = []
        for _ in range(3):
            before = os.times()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            after = os.times()
            took.append(after.children_user + after.children_system - before.children_user - before.children_system)
        return min(took)

    bare, ours = seconds("-c", "import click, json, difflib, importlib.metadata"), seconds("-m", "minisheep", "--help")
    assert ours < 3 * bare + 0.05, f"--help took {ours:.2f} s of the processor, a bare click {bare:.2f} s"


@pytest.mark.parametrize("verb", [*VERBS, ""])
def test_every_command_has_help(call: Call, verb: str) -> None:
    said = call(*verb.split(), "--help")
    assert (said.code, said.err) == (0, "")
    assert "Usage: minisheep" in said.out and "--help" in said.out
    assert all(len(line) <= 130 for line in said.out.splitlines())


def test_help_of_align_shows_settings_under_their_headings(call: Call) -> None:
    out = call("align", "--help").out
    for heading in ("What to align", "Writing instructions", "Training", "The machine"):
        assert f"\n{heading}:" in out
    assert "--rslora / --no-rslora" in out


def test_no_command_shows_what_there_is(call: Call) -> None:
    said = call()
    assert said.code == 2
    assert "align" in said.err and "Traceback" not in said.err


def test_the_version_is_told(call: Call) -> None:
    from minisheep import __version__

    assert call("--version").out.strip().endswith(__version__)


# Mistakes


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with everything that can be wrong."""
    made = tmp_path / "place"
    made.mkdir()
    (made / "file").write_text("not a run")
    (made / "foreign").mkdir()
    (made / "foreign" / "thesis.tex").write_text("mine")
    (made / "bad.toml").write_text("roundz = 3\n")
    (made / "broken.toml").write_text("rounds = \n")
    (made / "preset.toml").write_text('preset = "fast"\n')
    (made / "empty.jsonl").write_text("")
    (made / "broken.jsonl").write_text('{"instruction": "Do.", "output": "Done."}\n{oops\n')
    (made / "few.jsonl").write_text('{"instruction": "Do.", "output": "Done."}\n')
    (made / "text.gguf").write_text("This is no model at all, only some words in a file with that name.\n")
    (made / "empty.gguf").write_bytes(b"")
    (made / "cut.gguf").write_bytes(tiny_gguf()[:300])
    (made / "short.gguf").write_bytes(tiny_gguf()[:-100])
    (made / "adapter.gguf").write_bytes(Tiny(more=(pair("general.type", "str", "adapter"),)).build())
    (made / "prompts").mkdir()
    (made / "prompts" / "qualty.txt").write_text("x")
    (made / "presets.toml").write_text('preset = ["demo"]')
    (made / "zero.toml").write_text('seeds = "a\\u0000b"')
    return made


FAKE = ("--engine", "fake", "--trainer", "fake")
MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "command": (["algin"], 2, "Nearest: align"),
    "nonsense": (["zzz"], 2, "No such command 'zzz'"),
    "flag": (["align", "--roundz", "3"], 2, "--rounds"),
    "number": (["align", "--rounds", "three"], 2, "'three' is not a valid integer"),
    "range": (["align", *FAKE, "--rounds", "0"], 2, "--rounds 0"),
    "choice": (["align", "--judge", "vibes"], 2, "'logits', 'sample', 'pmi'"),
    "extra argument": (["align", "demo"], 2, "unexpected extra argument"),
    "missing value": (["align", "--rounds"], 2, "requires an argument"),
    "keep": (["align", *FAKE, "--keep", "best"], 2, "is not threshold:NUMBER, top:FRACTION"),
    "contradiction": (["align", *FAKE, "--judge", "pmi", "--keep", "threshold:8"], 2, "--keep top:0.5"),
    "one fake": (["align", "--engine", "fake"], 2, "belong together"),
    "model": (["align", "--model", "smolm2-135m"], 2, "smollm2-135m"),
    "model to pull": (["pull", "smolm2-135m"], 2, "smollm2-135m"),
    "nothing to pull": (["pull"], 2, "Missing argument 'MODEL'"),
    "missing gguf": (["pull", "/nonexistent/x.gguf"], 1, "/nonexistent/x.gguf"),
    "text as gguf": (["pull", "{0}/text.gguf"], 1, "text.gguf"),
    "empty gguf": (["pull", "{0}/empty.gguf"], 1, "empty.gguf"),
    "truncated gguf": (["pull", "{0}/cut.gguf"], 1, "cut.gguf"),
    "adapter for a model": (["pull", "{0}/adapter.gguf"], 1, "no model in it"),
    "gguf that lacks its end": (["pull", "{0}/short.gguf"], 1, "short.gguf"),
    "no seeds": (["align", *FAKE, "--seeds", "{0}/none.jsonl"], 2, "none.jsonl cannot be read"),
    "empty seeds": (["align", *FAKE, "--seeds", "{0}/empty.jsonl"], 2, "empty.jsonl holds no seed task"),
    "broken seeds": (["align", *FAKE, "--seeds", "{0}/broken.jsonl"], 2, "broken.jsonl, line 2: not JSON"),
    "few seeds": (["align", *FAKE, "--seeds", "{0}/few.jsonl"], 2, "too few"),
    "no prompts": (["align", *FAKE, "--prompts", "{0}/none"], 2, "does not exist"),
    "prompts": (["align", *FAKE, "--prompts", "{0}/prompts"], 2, "qualty.txt replaces no prompt"),
    "preset in a list": (["align", *FAKE, "--config", "{0}/presets.toml"], 2, "there is no preset ['demo']"),
    "zero byte": (["align", *FAKE, "--config", "{0}/zero.toml"], 2, "cannot be read: embedded null byte"),
    "run is a file": (["align", *FAKE, "--run", "{0}/file"], 2, "is not a folder"),
    "run is foreign": (["align", *FAKE, "--run", "{0}/foreign"], 2, "thesis.tex"),
    "run below a file": (["align", *FAKE, "--run", "{0}/file/run"], 74, "Not a directory"),
    "run with a name too long": (["align", *FAKE, "--run", "x" * 300], 74, "File name too long"),
    "toml key": (["align", "--config", "{0}/bad.toml"], 2, "unknown setting 'roundz' in {0}/bad.toml (nearest: rounds"),
    "toml syntax": (["align", "--config", "{0}/broken.toml"], 2, "not valid TOML"),
    "toml preset": (["align", "--config", "{0}/preset.toml"], 2, "Presets: default, paper, imitation, demo"),
    "no toml": (["align", "--config", "{0}/none.toml"], 2, "cannot be read"),
    "status of nothing": (["status"], 2, "minisheep align --preset demo"),
    "status of no run": (["status", "{0}/foreign"], 2, "is not a run folder"),
    "respond before anything": (
        ["respond", *FAKE, "--run", "{0}/new"],
        2,
        "Start it with `minisheep align --run {0}/new`",
    ),
    "train before anything": (["train", *FAKE, "--run", "{0}/new"], 2, "{0}/new does not exist."),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_is_one_line_and_leaves_nothing(call: Call, place: Path, name: str) -> None:
    args, code, told = MISTAKES[name]
    before = sorted(place.rglob("*"))
    said = call(*(arg.format(place) for arg in args))
    assert said.code == code, said
    assert len(said.err.splitlines()) == 1 and said.err.startswith("minisheep: ")
    assert told.format(place) in said.err
    assert said.out == "" and "Traceback" not in said.err
    assert sorted(place.rglob("*")) == before
    assert not Path("runs").exists()


# The flag belongs to a command.
@pytest.mark.parametrize("name", [name for name in MISTAKES if name not in ("command", "nonsense")])
def test_a_mistake_is_one_json_object_if_that_is_asked_for(call: Call, place: Path, name: str) -> None:
    args, code, told = MISTAKES[name]
    said = call(args[0], "--json", *(arg.format(place) for arg in args[1:]))
    assert said.code == code and said.err == ""
    (event,) = said.events
    assert event["event"] == "Failed" and event["kind"].endswith("Error")
    assert told.format(place) in event["message"] + event["fix"]


def test_a_mistake_in_a_process_of_its_own_has_no_traceback(place: Path) -> None:
    done = minisheep("align", *FAKE, "--seeds", str(place / "broken.jsonl"))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m minisheep models --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_a_path_with_escape_codes_cannot_act_on_the_terminal(call: Call, tmp_path: Path) -> None:
    said = call("status", str(tmp_path / "\x1b]0;owned\x07"))
    assert said.code == 2 and "\x1b" not in said.err and "\x07" not in said.err


# Whole runs


def test_the_commands_one_after_another_do_what_align_does(call: Call, tmp_path: Path) -> None:
    assert call("align", *tiny(tmp_path / "whole", rounds=1)).code == 0
    run = tmp_path / "steps"
    early = call("judge", *tiny(run, rounds=1))
    assert early.code == 2
    for verb in ("generate", "respond", "judge", "filter", "train", "evaluate"):
        said = call(verb, "--run", str(run), *(tiny(run, rounds=1) if verb == "generate" else []))
        assert (said.code, said.err) == (0, ""), said
        if verb != "evaluate":
            assert "Next: `minisheep" in said.out
    assert outcome(run) == outcome(tmp_path / "whole")
    assert api.load_run(run).next_phase is None


def test_every_phase_is_a_command() -> None:
    assert {phase.name for phase in loop.phases(config.make({}))} <= set(VERBS)


def test_the_judge_of_a_new_run_can_be_examined_alone(call: Call, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = call("exam", *tiny(run), "--judge", "auto", "--exam-tasks", "8", "--force")
    assert (said.code, said.err) == (0, ""), said
    assert api.load_run(run).next_phase == loop.Phase(1, "generate")
    assert (run / "round-1" / "exam.json").exists()


def test_a_command_out_of_order_says_which_is_next(call: Call, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny_run(run, until=loop.Phase(1, "generate"), per_round=4)
    for verb in ("generate", "judge", "filter", "train", "evaluate"):
        said = call(verb, "--run", str(run))
        assert said.code == 2
        assert f"minisheep respond --run {run}" in said.err


def test_a_finished_run_says_how_to_go_on(call: Call, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny_run(run, per_round=4, rounds=1)
    said = call("generate", "--run", str(run))
    assert said.code == 2 and "--rounds 2" in said.err
    again = call("align", "--run", str(run))
    assert (again.code, again.err) == (0, "")
    assert "--rounds 2" in again.out
    # That it is over is said once, with the round to use.
    told = call("status", str(run)).out.splitlines()
    assert [line for line in told if "finished" in line.removeprefix(str(run)).lower()] == [told[-1]]
    assert told[-1].startswith(f"{run}: finished; best: ")


def test_a_run_that_patience_ended_goes_on_with_what_is_asked_for_and_says_why_it_does_not(
    call: Call, tmp_path: Path
) -> None:
    """The same command again does nothing and says why; more rounds or the patience that it advises go on."""
    run = tmp_path / "run"
    tiny_run(run, per_round=4, rounds=3, patience=1, until=loop.Phase(2, "evaluate"), eval_verifiable=0, eval_answers=0)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["phases"]["round-2/evaluate"] |= {"best": 0, "without_gain": 2}
    (run / "manifest.json").write_text(json.dumps(manifest))
    for same in ((), ("--rounds", "3")):
        said = call("align", "--run", str(run), *same).out
        assert "Nothing was done" in said and "2 measured rounds in a row" in said and "--patience 1" in said
        assert "likelihood of right answers  " not in said, "the table was shown when the run ended"
    (advice,) = (line.removeprefix("More:  minisheep ") for line in said.splitlines() if line.startswith("More:"))
    assert advice.endswith("--patience 4")
    other = tmp_path / "other"
    shutil.copytree(run, other)
    assert call(*shlex.split(advice)).code == 0 and len(api.load_run(run).rounds) == 3
    more = call("align", "--run", str(other), "--rounds", "5").out
    assert "--rounds 3 -> 5, --patience 1 -> 3" in more and "Nothing was done" not in more
    assert len(api.load_run(other).rounds) >= 3


def test_the_filter_can_be_repeated_with_another_keep(call: Call, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny_run(run, until=loop.Phase(1, "filter"), per_round=4)
    assert call("filter", "--run", str(run), "--keep", "top:0.01").code == 0
    assert len(api.load_run(run).rounds[0].kept) == 1


def test_settings_come_from_a_file_and_flags_win(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'preset = "imitation"\nengine = "fake"\ntrainer = "fake"\nper_round = 4\nrounds = 2\neval_tasks = 2\n'
    )
    run = tmp_path / "run"
    assert call("align", "--config", str(file), "--rounds", "1", "--run", str(run)).code == 0
    settings = api.load_run(run).settings
    assert (settings.rounds, settings.per_round, settings.judge) == (1, 4, "pmi")


def test_a_run_that_failed_at_once_goes_on_with_its_own_settings(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setenv("MINISHEEP_FAULT", "full:evaluate:1")
        patch.setattr("minisheep.run.events._seen", {})
        assert call("align", *tiny(run, rounds=1)).code == 74
    assert call("align", "--run", str(run)).code == 0
    assert api.load_run(run).settings.per_round == 4
    assert call("status", str(run)).code == 0


def test_without_a_folder_the_same_command_finds_its_run(call: Call) -> None:
    command = ("align", "--preset", "imitation", *flags(per_round=4, rounds=1, eval_tasks=2, eval_answers=0))
    assert call(*command).code == 0
    assert Path("runs/smollm2-135m-imitation/manifest.json").exists()
    assert "Continuing" in call(*command).out


def test_piped_output_has_no_escape_codes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = minisheep("align", *tiny(run, rounds=1))
    assert (done.returncode, done.stderr) == (0, "")
    status = minisheep("status", str(run))
    for text in (done.stdout, status.stdout, minisheep("models").stdout):
        assert text and "\x1b" not in text and "\r" not in text
    assert "base model: held-out NLL" in done.stdout
    assert outcome(run)


def test_status_shows_phases_and_the_table(call: Call, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny_run(run, until=loop.Phase(2, "generate"), per_round=4)
    out = call("status", str(run)).out
    for told in ("base model, evaluate", "round 1, train", "round 2, respond", "waiting", "base", "round 1"):
        assert told in out
    assert out.startswith("Use ") and out.count("│") > 3
    assert "likelihood of right answers" in out and "held-out NLL per token" not in out
    whole = call("status", str(run), "--full").out
    assert "held-out NLL per token" in whole and "scores of round 1 (pmi)" in whole
    assert f"Continue: minisheep align --run {run}" in out
    assert call("status", "--run", str(run)).out == out


def test_status_without_a_name_lists_the_runs_as_runs_does(call: Call, tmp_path: Path) -> None:
    """Whatever lies there is listed with what it is, and ends nothing."""
    for name in ("one", "two"):
        tiny_run(Path("runs") / name, until=loop.Phase(0, "evaluate"), per_round=4)
    shutil.copytree(STORED, Path("runs/three"))
    shutil.copytree(STORED, Path("runs/hurt"))
    Path("runs/hurt/manifest.json").write_text("{")
    Path("runs/notes").mkdir()
    out = call("status").out
    assert out == call("runs").out == call("runs", "runs").out
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("runs/")}
    assert "stopped" in rows["runs/one"] and "0 of 2" in rows["runs/two"] and "finished" in rows["runs/three"]
    assert "2 of 2" in rows["runs/three"] and "round 1" in rows["runs/three"] and "better" in rows["runs/three"]
    assert "runs/hurt: damaged: runs/hurt/manifest.json" in out and "Not a run: notes" in out
    told = {event["run"]: event for event in call("status", "--json").events}
    assert {name: event["state"] for name, event in told.items()} == {
        "runs/one": "stopped", "runs/two": "stopped", "runs/three": "finished", "runs/hurt": "damaged",
        "runs/notes": "not a run",
    }  # fmt: skip
    assert told["runs/one"]["next"] == "round-1/generate" and told["runs/three"]["verdict"].startswith("Use round 1")
    assert [event["run"] for event in call("runs", "runs/one", "--json").events] == ["runs/one"]


@pytest.mark.parametrize("width", [30, 60, 80, 160])
def test_the_list_of_runs_fits_its_terminal(width: int, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("runs") / "a-rather-long-name-for-a-run-of-the-night-before"
    shutil.copytree(STORED, path)
    monkeypatch.setenv("COLUMNS", str(width))
    head, row = call("runs").out.splitlines()
    assert len(head) <= width and len(row) <= width
    assert row.split()[0].endswith("night-before") and "finished" in row
    assert ("smollm2-135m" in row) == (width == 160)


def test_json_is_all_there_is_on_every_command(call: Call, tmp_path: Path, place: Path) -> None:
    run = tmp_path / "run"
    tiny_run(tmp_path / "other", until=loop.Phase(0, "evaluate"), per_round=4)
    (place / "whole.gguf").write_bytes(tiny_gguf())
    commands = [
        ["generate", *tiny(run, rounds=1)],
        *([verb, "--run", str(run)] for verb in ("respond", "judge", "filter", "train", "evaluate")),
        ["align", "--run", str(run)],
        ["align", "--run", str(run), "--seed", "5"],
        ["status", str(run)],
        ["models"],
        ["pull", str(place / "whole.gguf"), "--offline"],
    ]
    for command in commands:
        said = call(command[0], "--json", *command[1:])
        assert said.err == "" and said.events, command
        assert said.code == (2 if "--seed" in command else 0), (command, said)
    assert outcome(run)


def test_json_of_a_run_ends_with_its_end(call: Call, tmp_path: Path) -> None:
    said = call("align", "--json", *tiny(tmp_path / "run", rounds=1))
    told = said.events
    assert (said.code, said.err) == (0, "")
    assert told[0]["event"] == "RunStarted" and told[-1]["event"] == "RunFinished"
    assert all("time" in event for event in told)


def test_models_names_what_can_be_aligned(call: Call) -> None:
    rows = call("models", "--json").events
    assert {"smollm2-135m", "qwen1.5-7b"} <= {row["name"] for row in rows}
    listed = call("models").out
    assert all(row["name"] in listed for row in rows)


@pytest.mark.parametrize(
    ("name", "told"), [("r2-checked-3", "--rounds 1,2,3 "), ("one-base", ""), ("r2-checked-2", "")]
)
def test_rounds_that_gained_at_a_price_are_advised_to_be_joined(name: str, told: str) -> None:
    from minisheep.cli.work import _what_next

    run = api.load_run(Path(__file__).parent.parent / "docs" / "results" / name)
    joins = [line for line in _what_next(run) if line.startswith("Join:")]
    assert [line for line in joins if told in line] == joins and bool(joins) == bool(told)


def test_lines_for_a_terminal_break_between_words_and_those_for_a_pipe_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = "  round 1, evaluate          done in 2 min 04 s: 40 held-out tasks scored, 32 answers written; best: base"
    assert fitted(line, indent=29) == [line]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    first, second = fitted(line, indent=29)
    assert max(len(first), len(second)) <= 80 and second.startswith(" " * 29 + "answers")
    assert fitted("") == []
    monkeypatch.setenv("COLUMNS", "20")
    assert fitted("Much faster: --kv-type q8_0") == ["Much faster:", "--kv-type q8_0"]
    assert fitted(f"See {'a' * 30}") == ["See", "a" * 30]
