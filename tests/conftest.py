"""Every test has its own cache and working folder, and no network by accident."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A limit on the clock would count what other programs take of this machine, or the time that it is held.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

TEST_CACHE = Path(os.environ.get("MINISHEEP_TEST_CACHE", "~/.cache/minisheep-tests")).expanduser()
"""Where real models for the `model` and `slow` tiers stay from one test run to the next."""


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    real = request.node.get_closest_marker("model") or request.node.get_closest_marker("slow")
    monkeypatch.setenv("MINISHEEP_CACHE", str(TEST_CACHE if real else tmp_path / "cache"))
    monkeypatch.delenv("MINISHEEP_FAULT", raising=False)
    monkeypatch.delenv("MINISHEEP_RAISE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
