"""What is shown survives any terminal, a closed or full output, and a reader that leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import tiny_run

from minisheep import loop

RUN = Path(__file__).parent / "data" / "run-0.1"
FULL = Path("/dev/full")


def shown(*words: str, redirect: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command in a shell, with its output redirected."""
    line = f'"$@" {redirect}'
    given = [sys.executable, "-m", "minisheep", *words]
    return subprocess.run(
        ["/bin/bash", "-c", line, "bash", *given], capture_output=True, env={**os.environ, **environment}, check=False
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_characters_that_the_terminal_lacks_are_replaced(encoding: str) -> None:
    said = shown("status", str(RUN), PYTHONIOENCODING=encoding)
    assert said.returncode == 0 and not said.stderr
    assert said.stdout.decode(encoding)


SHOWS = """
import contextlib, sys
from minisheep.cli.main import main
for words in {verbs!a}:
    sys.argv = ["minisheep", *words]
    try:
        main()
    except SystemExit as ended:
        print(words[0], "ended with", ended.code, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "C"],
)
def test_no_verb_stumbles_over_a_terminal_without_utf_8(tmp_path: Path, environment: dict[str, str]) -> None:
    run, made = str(tmp_path / "run"), str(tmp_path / "made")
    quick = "--engine fake --trainer fake --rounds 1 --per-round 4 --assess none --exam-tasks 0 --eval-answers 2"
    shutil.copytree(RUN, run)
    lines = (Path(run) / "round-1" / "kept.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0])["id"]
    verbs: list[list[str]] = [
        ["align", *quick.split(), "--eval-verifiable", "2", "--language", "zh", "--run", made, "--plain"],
        *(["status", one, *more] for one in (run, made) for more in ([], ["--full"])),
        ["browse", made], ["browse", run, first], ["compare", run, made], ["attach", made], ["models"],
        ["report", made, "--out", str(tmp_path / "out")], ["plan", "--model", "smollm2-135m"], ["--help"],
        ["align", "--help"], ["completion", "bash"],
    ]  # fmt: skip
    line = [sys.executable, "-c", SHOWS.format(verbs=verbs)]
    said = subprocess.run(line, capture_output=True, env={**os.environ, **environment}, check=False, timeout=300)
    told = said.stderr.decode("utf-8", "replace")
    assert "Traceback" not in told and "codec" not in told
    assert [row.split()[-1] for row in told.splitlines() if " ended with " in row] == ["0"] * len(verbs), told
    # Chinese is in what was shown, and only characters of the terminal are.
    shown_text = said.stdout.decode("ascii")
    assert "?" in shown_text and len(shown_text) > 10_000


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize("redirect", [">/dev/full", ">&-"])
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_an_output_that_cannot_be_written_is_one_line_and_74(redirect: str, more: tuple[str, ...]) -> None:
    said = shown("status", str(RUN), *more, redirect=redirect)
    assert said.returncode == 74
    lines = said.stderr.decode().splitlines()
    assert len(lines) == 1 and lines[0].startswith("minisheep: The ")


def test_a_reader_that_leaves_needs_no_word() -> None:
    said = shown("status", str(RUN), redirect="| head -c 1; exit ${PIPESTATUS[0]}")
    assert said.returncode in (0, 1) and not said.stderr


@pytest.mark.parametrize("verb", ["browse", "chat"])
def test_an_input_that_is_closed_is_empty(verb: str, tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", until=loop.Phase(0, "evaluate"))
    said = shown(verb, str(tmp_path / "run"), *(["--base"] if verb == "chat" else []), redirect="<&-")
    assert said.returncode == 0 and b"Traceback" not in said.stderr


def test_no_file_takes_the_number_of_a_closed_stream() -> None:
    """Else a run's lock or a server's socket may be 0 or 1, which a worker takes for its own input and output."""
    code = (
        "import os, tempfile; os.closerange(0, 2)\n"
        "import sys; from minisheep.cli.main import _ready_output; _ready_output()\n"
        "assert sys.stdin.read() == '' and tempfile.TemporaryFile().fileno() > 2"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_whose_output_is_closed_is_done_all_the_same(tmp_path: Path) -> None:
    quick = "--engine fake --trainer fake --assess none --exam-tasks 0 --eval-answers 0 --eval-verifiable 0 --rounds 1"
    said = shown("align", *quick.split(), "--per-round", "3", "--run", str(tmp_path / "run"), "--plain", redirect=">&-")
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "run" / "round-1" / "metrics.json").exists()


def test_without_a_home_the_cache_must_be_named() -> None:
    code = (
        "import platformdirs\n"
        "def homeless(*given): raise RuntimeError('Could not determine home directory.')\n"
        "platformdirs.user_cache_path = homeless\n"
        "import sys; sys.argv = ['minisheep', 'pull', 'smollm2-135m']\n"
        "from minisheep.cli.main import main; main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MINISHEEP_CACHE"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert said.returncode == 74
    assert len(said.stderr.splitlines()) == 1 and "MINISHEEP_CACHE" in said.stderr


def test_a_folder_that_was_deleted_under_the_shell_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "minisheep", "align", "--engine", "fake", "--trainer", "fake", "--plain"]
    script = f"import os, sys; os.rmdir(os.getcwd()); os.execv({command[0]!r}, {command!r})"
    root = str(Path(__file__).parents[1])
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=gone,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 74
    assert "The folder that this shell is in was deleted." in done.stderr and "cd ~" in done.stderr


def test_a_tilde_that_the_shell_left_is_the_home_folder(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", until=loop.Phase(0, "evaluate"))
    assert shown("status", "--run=~/run", HOME=str(tmp_path)).returncode == 0


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to("nowhere")
    said = shown("align", "--engine", "fake", "--trainer", "fake", "--plain", "--run", str(tmp_path / "run"))
    assert said.returncode == 2 and b"leads nowhere" in said.stderr
