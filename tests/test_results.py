"""The tables of docs/results.md are what the commands above them print of the stored runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from minisheep.cli.main import cli

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
STORED = PAGE.with_suffix("")
BLOCK = re.compile(r"^<!-- minisheep (.+?) -->\n(.*?)\n<!-- /minisheep -->$", re.MULTILINE | re.DOTALL)
BLOCKS: list[tuple[str, str]] = BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def test_there_are_tables() -> None:
    assert {command.split()[0] for command, _ in BLOCKS} == {"compare", "report"}


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=[command[:60] for command, _ in BLOCKS])
def test_a_table_is_what_the_command_prints(
    command: str, shown: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(STORED)
    verb, *rest = command.split()
    where = ["--out", str(tmp_path)] if verb == "report" else []
    result = CliRunner().invoke(cli, [verb, *rest, *where])
    assert result.exit_code == 0, result.output
    printed = (tmp_path / "report.md").read_text(encoding="utf-8") if verb == "report" else result.stdout
    assert shown in printed


def test_the_stored_runs_say_nothing_of_the_machine_they_ran_on() -> None:
    for path in STORED.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".toml"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"[\"' ]/(root|home|work|tmp)/", text), path
