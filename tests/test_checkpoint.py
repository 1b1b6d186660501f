"""A checkpoint is whole or it is not used, whatever a crash or a disk did."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from minisheep.errors import DiskError
from minisheep.run import files
from minisheep.trainers import checkpoint
from minisheep.trainers.checkpoint import Checkpoint, clear, newest_checkpoint, save_checkpoint


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


TENSORS = {"weights/a": np.arange(6, dtype=np.float32).reshape(2, 3), "exp_avg/a": np.ones((2, 3), np.float32)}


def at(step: int) -> Checkpoint:
    return Checkpoint(step, {"loss": 1.0 / step, "best": None}, {key: value + step for key, value in TENSORS.items()})


def same(found: Checkpoint | None, wanted: Checkpoint) -> bool:
    return (
        found is not None
        and (found.step, found.state) == (wanted.step, wanted.state)
        and found.tensors.keys() == wanted.tensors.keys()
        and all(np.array_equal(found.tensors[key], wanted.tensors[key]) for key in wanted.tensors)
    )


def keep_both(scratch: Path) -> tuple[Path, Path]:
    """Checkpoints 3 and 12, as after a kill between the rename of the second and the deletion of the first."""
    first = save_checkpoint(scratch, "x", at(3))
    aside = first.rename(scratch / "aside")
    second = save_checkpoint(scratch, "x", at(12))
    return aside.rename(first), second


def test_what_was_saved_is_read(scratch: Path) -> None:
    save_checkpoint(scratch, "x", at(3))
    assert same(newest_checkpoint(scratch, "x"), at(3))


def test_an_empty_scratch_has_none(scratch: Path) -> None:
    assert newest_checkpoint(scratch / "nowhere", "x") is None


def test_a_newer_checkpoint_replaces_the_older(scratch: Path) -> None:
    save_checkpoint(scratch, "x", at(3))
    save_checkpoint(scratch, "x", at(12))
    assert [path.name for path in scratch.iterdir()] == ["step-00000012"]


def test_a_checkpoint_of_other_data_is_deleted(scratch: Path) -> None:
    save_checkpoint(scratch, "x", at(3))
    assert newest_checkpoint(scratch, "y") is None
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
def test_every_flipped_byte_is_noticed(scratch: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_checkpoint(scratch, "x", at(3)) / name
    whole = path.read_bytes()
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        found = newest_checkpoint(scratch, "x")
        # JSON leaves room for spaces; a change that means the same is no damage.
        assert found is None or same(found, at(3))
        assert found is None or name == "manifest.json"


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
@pytest.mark.parametrize("kept", [0, 1, 100])
def test_a_torn_newest_gives_way_to_the_whole_older_one(scratch: Path, name: str, kept: int) -> None:
    _, second = keep_both(scratch)
    (second / name).write_bytes((second / name).read_bytes()[:kept])
    assert same(newest_checkpoint(scratch, "x"), at(3))
    assert not second.exists()


def test_a_missing_file_is_a_torn_checkpoint(scratch: Path) -> None:
    (save_checkpoint(scratch, "x", at(3)) / "tensors.safetensors").unlink()
    assert newest_checkpoint(scratch, "x") is None


def test_a_kill_before_the_rename_leaves_no_checkpoint(scratch: Path) -> None:
    save_checkpoint(scratch, "x", at(3))
    (scratch / ".step-00000012.99999999.tmp").mkdir()
    (scratch / ".step-00000012.99999999.tmp" / "tensors.safetensors").write_bytes(b"half")
    assert same(newest_checkpoint(scratch, "x"), at(3))
    assert [path.name for path in scratch.iterdir()] == ["step-00000003"]


def test_a_full_disk_keeps_the_older_checkpoint(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(scratch, "x", at(3))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync_tree", full)
    with pytest.raises(DiskError, match="No space"):
        save_checkpoint(scratch, "x", at(12))
    assert [path.name for path in scratch.iterdir()] == ["step-00000003"]
    assert same(newest_checkpoint(scratch, "x"), at(3))


def test_clear_deletes_checkpoints_and_nothing_else(scratch: Path) -> None:
    save_checkpoint(scratch, "x", at(3))
    (scratch / "log.txt").write_text("kept")
    clear(scratch)
    assert [path.name for path in scratch.iterdir()] == ["log.txt"]


def test_a_published_folder_is_absent_after_an_error(scratch: Path) -> None:
    with pytest.raises(RuntimeError), files.publish(scratch / "out") as folder:
        (folder / "half").write_text("half")
        raise RuntimeError
    assert list(scratch.iterdir()) == []


def test_a_folder_that_came_into_being_meanwhile_stays(scratch: Path) -> None:
    with files.publish(scratch / "out") as folder:
        (folder / "ours").write_text("ours")
        (scratch / "out").mkdir()
        (scratch / "out" / "theirs").write_text("theirs")
    assert os.listdir(scratch) == ["out"]
    assert os.listdir(scratch / "out") == ["theirs"]


def test_leftovers_of_a_live_process_are_let_be(scratch: Path) -> None:
    alive, dead = scratch / f".out.{os.getppid()}.tmp", scratch / ".out.99999999.tmp"
    alive.mkdir()
    dead.mkdir()
    with files.publish(scratch / "out") as folder:
        (folder / "file").write_text("x")
    assert sorted(os.listdir(scratch)) == [alive.name, "out"]
