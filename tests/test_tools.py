"""The tools that watch over the package: they count right, and every mutant still finds its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import house, mutants

PACKAGE = Path(__file__).parents[1] / "minisheep"


def test_circles_are_groups_that_can_reach_one_another() -> None:
    needs = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert sorted(house.circles(needs)) == [["a", "b", "c"], ["d", "e"]]
    assert house.circles({"a": {"b"}, "b": set()}) == []


def test_imports_are_counted_late_ones_too(tmp_path: Path) -> None:
    text = "from a import (\n    b,\n    c,\n)\n\n\ndef late():\n    import d\n"
    (tmp_path / "one.py").write_text(text)
    (found,) = house.read(tmp_path)
    assert (found.lines, found.import_lines) == (8, 5)
    assert found.imported({"a", "a.b", "d", "z"}) == {"a", "a.b", "d"}


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_finds_its_place(mutant: mutants.Mutant) -> None:
    assert mutants.place_of(mutant.before, PACKAGE) is not None
    assert all((PACKAGE.parent / "tests" / name).is_file() for name in mutant.tests)
