"""What shells are answered when Tab is pressed, by click's own protocol and in a real bash."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minisheep.cli.completion import SHELLS, TABLE, items
from minisheep.cli.main import VERBS
from tools.reference import completion_table

MINISHEEP = (sys.executable, "-m", "minisheep")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs, something that is none, and a run elsewhere with a GGUF beside it."""
    for name in ("runs/mine/round-1", "runs/mine/round-2", "runs/mine/round-10", "runs/other", "papers", "deep/er/run"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("runs/mine/manifest.json", "runs/other/run.toml", "deep/er/run/manifest.json", "smol.gguf"):
        (tmp_path / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completed(text: str) -> list[str]:
    """What the last word of `text` may become; a kind in brackets is left to the shell."""
    *args, incomplete = text.split(" ")
    return [item.value if item.type == "plain" else f"<{item.type}>" for item in items(args, incomplete)]


def ask(shell: str, words: str, number: int | str) -> subprocess.CompletedProcess[str]:
    asked = {"_MINISHEEP_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
    return subprocess.run(MINISHEEP, env={**os.environ, **asked}, capture_output=True, text=True, check=True)


def test_the_table_is_made_from_the_code() -> None:
    assert json.loads(TABLE.read_text(encoding="utf-8")) == completion_table(), "run `make docs`"


def test_every_verb_is_in_the_table_and_every_value_that_is_a_run_file_or_folder_is_known() -> None:
    verbs = completion_table()["verbs"]
    assert list(verbs) == list(VERBS)
    for takes in (takes for takes in verbs.values() if not isinstance(takes, str)):
        for flag, kind in takes["options"].items():
            asked = ("--run", "--model", "--gpu", "--round", "--rule", "--out", "--config", "--preset", "--data")
            assert flag not in asked or kind not in ("", "-"), flag


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("al", ["align"]),
        ("chat ", ["runs/mine", "runs/other"]),
        ("chat ru", ["runs/mine", "runs/other"]),
        ("chat runs/", ["runs/mine", "runs/other"]),
        ("chat runs/m", ["runs/mine"]),
        ("chat pap", ["<dir>"]),
        ("chat deep/", ["<dir>"]),
        ("chat deep/er/", ["deep/er/run"]),
        ("chat nowhere/", ["<dir>"]),
        ("chat runs/mine ", []),
        ("compare runs/mine ru", ["runs/mine", "runs/other"]),
        ("chat runs/mine --round ", ["best", "last", "base", "1", "2", "10"]),
        ("chat runs/mine --round 1", ["1", "10"]),
        ("export runs/mine --round ", ["best", "last", "1", "2", "10"]),
        ("versus --against l", ["last"]),
        ("soup runs/mine --rounds 1,", ["1,1", "1,2", "1,10"]),
        ("align --run=runs/o", ["--run=runs/other"]),
        ("align --run runs/mine --strategy one", ["one-base", "one-last"]),
        ("align --run = ru", ["runs/mine", "runs/other"]),
        ("align --preset p", ["paper"]),
        ("align --model smol", ["smollm2-135m", "smollm2-360m", "smollm2-1.7b", "smol.gguf"]),
        ("align --model ./sm", ["<file>"]),
        ("align --model qwen/qwen1.5-7", ["Qwen/Qwen1.5-7B"]),
        ("pull gemma-3-2", ["gemma-3-270m"]),
        ("eval runs/o", ["runs/other"]),
        ("eval --tasks ifeval,tri", ["ifeval,triviaqa"]),
        ("align --config ", ["<file>"]),
        ("align --prompts ", ["<dir>"]),
        ("align --per-round ", []),
        ("export runs/mine --quantise q8", ["Q8_0"]),
        ("plan --gpu RTX-307", ["rtx-3070-8gb", "rtx-3070-laptop-8gb", "rtx-3070-ti-8gb", "rtx-3070-ti-laptop-8gb"]),
        ("plan --gpu 5090", ["rtx-5090-32gb", "rtx-5090-laptop-24gb"]),
        ("browse runs/mine --rule low", ["low_score"]),
        ("compare runs/mine --sort nll_c", ["nll_change"]),
        ("align --answer-t", ["--answer-temperature", "--answer-top-p"]),
        ("completion z", ["zsh"]),
        ("nonsense ", []),
        ("align --nonsense ", []),
    ],
)  # fmt: skip
def test_what_a_word_may_become(text: str, expected: list[str]) -> None:
    assert completed(text) == expected


def test_a_name_that_needs_quotes_is_left_to_the_shell(place: Path) -> None:
    (place / "runs" / "mine").rename(place / "runs" / "my run; rm")
    assert completed("chat runs/") == ["<dir>"]


def test_every_gpu_that_is_completed_is_understood() -> None:
    from minisheep.plan.gpu_models import find_gpu_model

    for name in completion_table()["words"]["gpu"]:
        assert find_gpu_model(name).title.lower().replace(" ", "-") == name


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_is_answered_in_its_own_form_and_without_the_verb(shell: str) -> None:
    # fish names the word itself, not its place.
    said = ask(shell, "minisheep chat runs/m", "runs/m" if shell == "fish" else 2)
    assert said.stderr == "" and "runs/mine" in said.stdout.replace("\n", ",").split(",")


@pytest.mark.parametrize(
    "words", ["minisheep chat 'runs/", "minisheep align --run \\", "", "minisheep export \x1b --round "]
)
def test_nothing_that_is_typed_gives_a_traceback(words: str) -> None:
    assert ask("bash", words, 2).stderr == ""


def test_a_broken_table_is_silence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from minisheep.cli import completion

    monkeypatch.setattr(completion, "TABLE", Path("gone"))
    monkeypatch.setenv("COMP_WORDS", "minisheep chat ")
    monkeypatch.setenv("COMP_CWORD", "2")
    completion.answer("bash_complete")
    completion.answer("tcsh_complete")
    assert capsys.readouterr() == ("", "")


def test_an_answer_takes_hardly_more_than_python_itself() -> None:
    """Seconds of the processor, since the machine may be busy; the slowest of what an answer may import takes as long
    alone."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ask("bash", "minisheep align --model sm", 3).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
    loaded = "import sys; from minisheep.cli import completion; completion.items(['align', '--model'], 's');"
    code = f"{loaded} print([m for m in ('pydantic', 'rich', 'numpy', 'minisheep.config') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script_that_asks_minisheep(shell: str) -> None:
    said = subprocess.run([*MINISHEEP, "completion", shell], capture_output=True, text=True, check=True)
    assert f"_MINISHEEP_COMPLETE={shell}_complete" in said.stdout and said.stderr == ""


@pytest.mark.skipif(not shutil.which("zsh"), reason="there is no zsh")
def test_a_zsh_whose_completion_nothing_has_started_takes_the_script(tmp_path: Path) -> None:
    script = subprocess.run([*MINISHEEP, "completion", "zsh"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "script.zsh").write_text(script)
    asked = ["zsh", "-f", "-c", ". ./script.zsh; print $_comps[minisheep]"]
    said = subprocess.run(
        asked, env={**os.environ, "HOME": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True
    )
    assert said.stdout.strip() == "_minisheep_completion" and "command not found" not in said.stderr


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_itself_completes_a_run(place: Path) -> None:
    program = place / "bin" / "minisheep"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {" ".join(MINISHEEP)} "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(minisheep completion bash)"; COMP_WORDS=(minisheep chat runs/); COMP_CWORD=2;'
        ' _minisheep_completion minisheep; complete -p minisheep; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    said = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert said.stderr == ""
    assert said.stdout.splitlines() == [
        "complete -o nosort -F _minisheep_completion minisheep",
        "runs/mine",
        "runs/other",
    ]
