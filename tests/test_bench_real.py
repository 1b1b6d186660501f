"""The benchmark on SmolLM2-135M: its shape, not its speed, since test machines are noisy."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TEST_CACHE

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

SLOW = "the time of --quick"
"""What a part says that was cut off."""


def rows(verb: str) -> list[dict[str, object]]:
    environment = {**os.environ, "MINISHEEP_CACHE": str(TEST_CACHE)}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", verb, "--quick", "--json"],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode != 0 and SLOW in done.stdout:
        pytest.skip("this machine is too slow, or too busy, for --quick")
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("verb", "what"), [("engine", "decode"), ("novelty", "novelty")])
def test_a_quick_bench_prints_a_ratio(verb: str, what: str) -> None:
    found = {row["what"]: row for row in rows(verb)}
    assert all({"what", "ours", "peer", "peer_name", "ratio", "unit"} <= set(row) for row in found.values())
    if what not in found and SLOW in str(found[verb]["note"]):
        pytest.skip("this machine is too slow, or too busy, for --quick")
    row = found[what]
    ratio = row["ratio"]
    assert isinstance(ratio, float) and math.isfinite(ratio) and ratio > 0
    assert row["quick"] is True
