"""The tables of docs/results.md and its further pages are what the commands above them print of the stored runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from minisheep.cli.main import cli

DOCS = Path(__file__).parent.parent / "docs"
PAGES = (DOCS / "results.md", DOCS / "results-false.md", DOCS / "results-imitation.md")
STORED = DOCS / "results"
BLOCK = re.compile(r"^<!-- minisheep (.+?) -->\n(.*?)^<!-- /minisheep -->$", re.MULTILINE | re.DOTALL)
BLOCKS = [(page, found[1]) for page in PAGES for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def test_there_are_tables() -> None:
    assert {command.split()[0] for _, command in BLOCKS} == {"compare", "report"}


@pytest.mark.parametrize(
    ("page", "command"), BLOCKS, ids=lambda value: value.stem if isinstance(value, Path) else value[:60]
)
def test_a_table_is_what_the_command_prints(
    page: Path, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """MINISHEEP_RESULTS=write fills them in anew."""
    monkeypatch.chdir(STORED)
    printed = _printed(command, tmp_path)
    if os.environ.get("MINISHEEP_RESULTS") == "write":
        text = page.read_text(encoding="utf-8")
        (block,) = [block for block in BLOCK.finditer(text) if block[1] == command]
        page.write_text(text[: block.start(2)] + printed + text[block.end(2) :], encoding="utf-8")
    assert printed == next(
        block[2] for block in BLOCK.finditer(page.read_text(encoding="utf-8")) if block[1] == command
    )


def _printed(command: str, folder: Path) -> str:
    """What `compare` prints; of a `report`, the table of the judge's exam."""
    verb, *rest = command.split()
    result = CliRunner().invoke(cli, [verb, *rest, *(["--out", str(folder)] if verb == "report" else [])])
    assert result.exit_code == 0, result.output
    if verb == "compare":
        return result.stdout
    blocks = (folder / "report.md").read_text(encoding="utf-8").split("\n\n")
    return next(block for block in blocks if block.startswith("| exam | judge |")) + "\n"


def test_the_stored_runs_say_nothing_of_the_machine_they_ran_on() -> None:
    for path in STORED.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".toml", ".svg"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"[\"' ]/(root|home|work|tmp)/", text), path
