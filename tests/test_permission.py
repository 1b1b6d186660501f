"""A run folder is data: what it would start, speak to or read from the environment must have been given here."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from tiny_runs import minisheep, tiny_run

from minisheep import api, config, loop, open_engines, opening
from minisheep.engines.permission import check_permitted, remember
from minisheep.errors import UsageError
from minisheep.models.cache import cache_root
from minisheep.run.folder import RunFolder
from minisheep.workspace import Workspace

URL = "http://127.0.0.1:1/v1"
SERVER = {"engine": "openai", "engine_url": URL, "engine_model": "m"}
SECRET = "MINISHEEP_TEST_TOKEN"


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    """A program that leaves a trace beside itself when it runs."""
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    program.chmod(0o700)
    return program


@pytest.fixture
def stranger(tmp_path: Path, witness: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody else's run, which a finished measurement makes one that goes on."""
    run = tmp_path / "stranger"
    tiny_run(run, until=loop.Phase(1, "generate"))
    settings = config.read_toml(run / "run.toml")
    settings |= {**SERVER, "trainer": "peft", "engine_hook": str(witness), "engine_key_env": SECRET}
    (run / "run.toml").write_text(tomli_w.dumps(settings))
    monkeypatch.setenv(SECRET, "sk-stays-here")
    return run


@pytest.mark.parametrize("verb", ["align", "respond"])
def test_a_strangers_run_starts_nothing_and_says_what_it_wanted(stranger: Path, witness: Path, verb: str) -> None:
    done = minisheep(verb, "--run", str(stranger), "--plain")
    assert done.returncode == 2 and not (witness.parent / "ran").exists()
    (line,) = done.stderr.splitlines()
    for wanted in (str(witness), URL, SECRET, "--engine-hook", "--engine-url", "--engine-key-env"):
        assert wanted in line
    assert "sk-stays-here" not in line


def test_no_way_to_an_engine_leads_past_the_question(stranger: Path, tmp_path: Path) -> None:
    """versus and the phases' workers take the server from the workspace, preparing from settings."""
    work = Workspace(stranger)
    ways: list[Callable[[], Any]] = [
        lambda: work.engine(0, lambda info: None),
        lambda: work.measuring_engine(0, lambda info: None),
        lambda: open_engines.open_server(work.settings, Path("x.gguf"), stranger),
        lambda: api.align(stranger),
        lambda: api.align(stranger, engine_url=URL),
        lambda: api.align(stranger, engine_key_env=SECRET, engine_hook=work.settings.engine_hook),
    ]
    for way in ways:
        with pytest.raises(UsageError, match="wants to"):
            way()
    assert not cache_root().joinpath(f"given-{os.getuid()}").exists()


def test_what_was_given_here_is_remembered_for_this_folder_alone(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    given = {**SERVER, "engine_key_env": SECRET, "engine_hook": "/bin/true"}
    settings = config.make(given)
    check_permitted(settings, run, given)
    remember(settings, run, given)
    check_permitted(settings, run)
    check_permitted(settings, run / ".." / "run")
    with pytest.raises(UsageError):
        check_permitted(settings, other)
    for changed in ({"engine_url": "http://x/v1"}, {"engine_key_env": "HOME"}, {"engine_hook": "/bin/false"}):
        with pytest.raises(UsageError):
            check_permitted(config.make({**given, **changed}), run)
    notes = list((cache_root() / f"given-{os.getuid()}").iterdir())
    assert notes and all(note.stat().st_mode & 0o777 == 0o600 for note in notes)
    assert notes[0].parent.stat().st_mode & 0o777 == 0o700


def test_a_key_goes_to_no_server_that_the_folder_chose_for_it(tmp_path: Path) -> None:
    """Each of two addresses and a key were given here once, but the key with one address only."""
    run, with_key = tmp_path / "run", {**SERVER, "engine_key_env": SECRET}
    remember(config.make(with_key), run, with_key)
    elsewhere = {**SERVER, "engine_url": "http://elsewhere/v1"}
    remember(config.make(elsewhere), run, elsewhere)
    check_permitted(config.make(elsewhere), run)
    both = config.make({**elsewhere, "engine_key_env": SECRET})
    with pytest.raises(UsageError, match=SECRET):
        check_permitted(both, run)
    # The user moves the server: the address is given now, and the key was.
    check_permitted(both, run, {"engine_url": "http://elsewhere/v1"})
    remember(both, run, {"engine_url": "http://elsewhere/v1"})
    check_permitted(both, run)


def test_a_note_of_another_kind_is_no_word_of_this_users(tmp_path: Path) -> None:
    given, run = dict(SERVER), tmp_path / "run"
    remember(config.make(given), run, given)
    (note,) = (cache_root() / f"given-{os.getuid()}").iterdir()
    note.unlink()
    note.symlink_to("/dev/null")
    with pytest.raises(UsageError):
        check_permitted(config.make(given), run)


def test_a_moved_run_asks_again_and_giving_it_all_is_enough(tmp_path: Path, witness: Path) -> None:
    given = {**SERVER, "trainer": "peft", "engine_hook": str(witness)}
    run = tmp_path / "run"
    tiny_run(run, until=loop.Phase(0, "evaluate"))
    settings = {**config.read_toml(run / "run.toml"), **given}
    (run / "run.toml").write_text(tomli_w.dumps(settings))
    shutil.move(run, tmp_path / "moved")
    with pytest.raises(UsageError, match="wants to"):
        api.align(tmp_path / "moved")
    folder = RunFolder(tmp_path / "moved")
    with opening.open_run(folder.path, None, given, lambda event: None) as opened:
        assert opened[1].engine_url == URL
    check_permitted(opening.stored_settings(folder), folder.path)
