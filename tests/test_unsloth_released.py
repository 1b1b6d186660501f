"""The released Unsloth: its source has what we call, and its back-end for processors trains through our own trainer.

Nothing of it is installed: wheels are unpacked into the tests' cache. Skipped where they cannot be fetched.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import TEST_CACHE
from unsloth_signatures import in_wheel, recorded, signatures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WHEELS = TEST_CACHE / "unsloth"
ON_PROCESSORS = "2026.10.9"
"""The release whose back-end for processors is tried; those before have none."""


def wheel(package: str, release: str) -> Path:
    """The wheel of a release, fetched once."""
    name = f"{package}-{release}-py3-none-any.whl"
    if not (WHEELS / name).exists():
        WHEELS.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(WHEELS), f"{package}=={release}"],
            capture_output=True,
            text=True,
        )
        if done.returncode or not (WHEELS / name).exists():
            pytest.skip(f"{name} cannot be fetched here: {done.stderr.strip()[-200:]}")
    return WHEELS / name


@pytest.mark.parametrize("release", recorded()["releases"])
def test_the_recorded_signatures_are_those_of_the_released_wheels(release: str) -> None:
    found = signatures(in_wheel(wheel("unsloth", release)))
    record = recorded()
    assert set(found["functions"]) == set(record["functions"])
    for function, names in record["functions"].items():
        assert set(names) <= set(found["functions"][function]), function
    for part in ("through_kwargs", "inherits", "body", "packed"):
        assert found[part] == record[part], part


TRAINING = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from minisheep.trainers.unsloth import start_unsloth
folder = Path(sys.argv[3])
start_unsloth(folder / "unsloth")
import tiny_training as tiny
from minisheep.run.events import TrainStep
with tiny.pytest.MonkeyPatch.context() as patch:
    tiny.pretend_gguf(patch)
    said = []
    weights = tiny.save_tiny_model(folder / "tiny-llama")
    job = tiny.job(folder, weights, load_in=sys.argv[2], lora_dropout=0.0)
    result = tiny.train(job, said, trainer="unsloth")
    print("RESULT", result.steps, result.first_loss, result.last_loss, sorted(tiny.adapter(job))[0])
    print("NOTES", tiny.notes(said).replace(chr(10), " | "))
"""


@pytest.mark.parametrize("load_in", ["fp32", "4bit"])
def test_its_back_end_for_processors_trains_through_our_trainer(tmp_path: Path, load_in: str) -> None:
    source = WHEELS / f"source-{ON_PROCESSORS}"
    if not source.exists():
        for package in ("unsloth", "unsloth_zoo"):
            with zipfile.ZipFile(wheel(package, ON_PROCESSORS)) as archive:
                archive.extractall(source)
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(source), load_in, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(here).parent), here]), "UNSLOTH_FORCE_CPU": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    _, steps, first, last, name = line.split()
    assert int(steps) == 10 and float(last) < float(first)
    assert name.startswith("base_model.model.model.layers.0.") and name.endswith("lora_A.weight")
    assert "through Unsloth" in done.stdout
