"""The command reference says what the commands say, each thing once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from minisheep import config
from minisheep.cli import options
from minisheep.cli.main import GROUPS, VERBS
from tools.reference import markdown

PAGE = Path(__file__).parent.parent / "docs" / "commands.md"


def test_the_page_is_made_from_the_code() -> None:
    """In a process of its own: click remembers a command's help flags from whoever called it first."""
    made = subprocess.run([sys.executable, "-m", "tools.reference"], capture_output=True, check=True)
    assert PAGE.read_bytes() == made.stdout, "run `make docs`"


def test_the_page_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    here = markdown()
    monkeypatch.setenv("COLUMNS", "40")
    assert markdown() == here


def test_every_verb_has_a_section() -> None:
    page = markdown()
    assert all(f"\n## minisheep {verb}\n" in page for verb in VERBS)


def test_the_page_says_nothing_twice() -> None:
    flags = re.findall(r"^  --.*", markdown(), re.MULTILINE)
    blocks = [tuple(flags[at : at + 4]) for at in range(len(flags) - 3)]
    assert len(set(blocks)) == len(blocks) > 100
    assert len(markdown()) < 50_000


def test_every_setting_is_on_the_page_and_under_a_heading_of_its_own() -> None:
    shared = markdown().partition("## Flags of a run")[2]
    for name in config.names():
        assert re.search(rf"^  {config.flag(name)}\b", shared, re.MULTILINE), name
    assert all(f"\n{title}:\n" in shared for title in (*options.GROUPS.values(), "The run", "Output"))


def test_help_sorts_verbs_into_groups_with_a_line_each() -> None:
    said = markdown().partition("Options:")[2].partition("```")[0]
    for title, verbs in GROUPS.items():
        section = said.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        assert re.findall(r"^  ([a-z]+) ", section, re.MULTILINE) == list(verbs)
    assert len({text for _, text in VERBS.values()}) == len(VERBS)


def test_examples_fit_a_terminal_of_eighty_columns() -> None:
    assert not [found for found in re.findall(r"^  minisheep .*", markdown(), re.MULTILINE) if len(found) > 80]


def test_every_command_shows_an_example() -> None:
    for section in markdown().split("\n## minisheep ")[1:]:
        name = section.partition("\n")[0]
        said = section.partition("Usage:")[2].partition("\n")[2].partition("Options:")[0]
        assert re.search(rf"^ .*minisheep {name}\b", said, re.MULTILINE), name
