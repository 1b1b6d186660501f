"""The run folder survives torn lines, flipped bytes, full disks and kills."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_runs import HELD, case, chosen, outcome, tiny_run

from minisheep import api
from minisheep.errors import CorruptRunError, DiskError, MinisheepError, RunLockedError
from minisheep.models.prepared import PreparedModel
from minisheep.rules.identity import digest
from minisheep.run.events import from_dict
from minisheep.run.files import disk_errors, read_json, write_atomic
from minisheep.run.folder import Appender, Lock, RunFolder, read_records, replace_records
from minisheep.run.records import Draft, Record, Response

AWKWARD = "two\nlines\rreturn\u2028separator\u0085next\x00nul\ud800lone \U0001f411"
TEXT = st.text(st.characters(), max_size=40) | st.just(AWKWARD)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def response(number: int, text: str = "An answer.") -> Response:
    return Response(f"{number:016x}", 0, text, "end", 3)


def write(path: Path, records: list[Response]) -> bytes:
    path.unlink(missing_ok=True)
    with Appender(path) as file:
        for record in records:
            file.append(record.to_dict())
    return path.read_bytes()


@FEW
@given(st.lists(TEXT, max_size=6))
def test_whatever_a_model_writes_comes_back_as_it_was(tmp_path: Path, texts: list[str]) -> None:
    records = [response(number, text) for number, text in enumerate(texts)]
    write(tmp_path / "file.jsonl", records)
    assert read_records(tmp_path / "file.jsonl", Response) == records


@pytest.mark.parametrize("text", [AWKWARD, "", "x" * 200_000])
def test_at_every_truncation_the_whole_records_are_read_and_more_can_be_appended(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.jsonl"
    records = [response(0), response(1, text), response(2)]
    data = write(path, records)
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    assert len(ends) == 3
    # Of a very long line only some places, around the reader's block size too.
    places = (
        range(len(data) + 1) if len(data) < 2000 else [*range(0, 250, 9), *range(65_500, 65_600, 37), len(data) - 5]
    )
    for place in places:
        path.write_bytes(data[:place])
        whole = records[: sum(end <= place for end in ends)]
        assert read_records(path, Response) == whole
        with Appender(path) as file:
            file.append(response(9).to_dict())
        assert read_records(path, Response) == [*whole, response(9)]


def test_every_flipped_bit_is_named_by_file_and_line_unless_the_content_is_the_same(tmp_path: Path) -> None:
    """All bits of a line but those of its newline: without it a last line is a torn one, which a crash can leave."""
    path = tmp_path / "file.jsonl"
    records = [response(0), response(1, "An \x1b answer \u2028 of 1.5 kinds."), response(2)]
    data = write(path, records)
    first, second = data.index(b"\n") + 1, data.index(b"\n", data.index(b"\n") + 1)
    harmless = 0
    for place in range(first, second):
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            try:
                assert read_records(path, Response) == records
                harmless += 1
            except CorruptRunError as error:
                assert f"{path}, line 2," in error.message
    # The hexadecimal digit b of the escape may be B: the same JSON.
    assert harmless <= 1


def test_a_flipped_newline_is_reported_within_a_file_and_a_torn_line_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    records = [response(0), response(1)]
    data = write(path, records)
    for bit in range(8):
        place = data.index(b"\n")
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        with pytest.raises(CorruptRunError, match="line 1"):
            read_records(path, Response)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1 << bit]))
        assert read_records(path, Response) == records[:1]


@FEW
@given(st.data())
def test_any_replaced_byte_is_reported_or_changes_nothing(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "file.jsonl"
    draft = Draft(1, 3, ("seed-a", "seed-b"), data.draw(TEXT), "length")
    replace_records(path, [draft])
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 2))
    raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        assert read_records(path, Draft) == [draft]
    except CorruptRunError as error:
        assert f"{path}, line 1," in error.message


def test_records_of_another_kind_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "file.jsonl", [response(0)])
    with pytest.raises(CorruptRunError, match="draft"):
        read_records(tmp_path / "file.jsonl", Draft)


@pytest.mark.parametrize("line", [b"[1]", b"[[1]]", b"7", b"null", b"{}", b'"x"', b"\xff\xfe", b"", b"[" * 50])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "file.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(CorruptRunError, match="line 1"):
        read_records(path, Response)


def test_nothing_is_appended_through_a_link(tmp_path: Path) -> None:
    (mine := tmp_path / "mine.txt").write_text("a torn line")
    (link := tmp_path / "responses.jsonl").symlink_to(mine)
    with pytest.raises(CorruptRunError, match="is a link"):
        Appender(link)
    assert mine.read_text() == "a torn line"


def test_a_missing_file_holds_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "none.jsonl", Response) == []


def test_several_records_are_written_together_and_none_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    with Appender(path) as file:
        file.append()
        file.append(response(0).to_dict(), response(1).to_dict())
    assert read_records(path, Response) == [response(0), response(1)]
    file.close()


# A disk that fails


class Disk:
    """Counts the calls that touch the disk and lets one of them fail, as a full disk would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int = 0, code: int = errno.ENOSPC) -> None:
        self.calls, self.fail_at, self.code = 0, fail_at, code
        for name in ("pwrite", "fsync", "replace"):
            monkeypatch.setattr(os, name, self._counted(getattr(os, name), name))

    def _counted(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.calls += 1
            if self.calls == self.fail_at:
                raise OSError(self.code, os.strerror(self.code))
            # A real sync would only cost time here.
            return None if name == "fsync" else real(*args)

        return call


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("fail_at", [1, 2])
def test_a_failed_append_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, fail_at: int
) -> None:
    path = tmp_path / "file.jsonl"
    before = write(path, [response(0)])
    with Appender(path) as file:
        with monkeypatch.context() as patch:
            Disk(patch, fail_at, code)
            with pytest.raises(DiskError) as failed:
                file.append(response(1).to_dict())
        assert os.strerror(code) in failed.value.message and str(path) in failed.value.message
        assert path.read_bytes() == before
        file.append(response(2).to_dict())
    assert read_records(path, Response) == [response(0), response(2)]


def test_an_error_that_no_room_would_mend_stays_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Appender(tmp_path / "file.jsonl") as file, monkeypatch.context() as patch:
        Disk(patch, 1, errno.EBADF)
        with pytest.raises(OSError, match="Bad file"):
            file.append(response(1).to_dict())


def test_short_writes_are_continued_and_undone_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.jsonl"
    before = write(path, [response(0)])
    real, room = os.pwrite, [10_000]

    def short(handle: int, data: bytes, offset: int) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "full")
        written = real(handle, data[: min(7, room[0])], offset)
        room[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", short)
    with Appender(path) as file:
        file.append(response(1).to_dict())
        room[0] = 50
        with pytest.raises(DiskError):
            file.append(response(2).to_dict(), response(3).to_dict())
        room[0] = 10_000
        file.append(response(4).to_dict())
    assert path.read_bytes().startswith(before)
    assert read_records(path, Response) == [response(0), response(1), response(4)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_that_is_full_is_a_disk_error() -> None:
    with Appender(Path("/dev/full")) as file, pytest.raises(DiskError):
        file.append(response(0).to_dict())


LIMITED = """
import resource, signal, sys
from pathlib import Path
from minisheep.errors import DiskError
from minisheep.run.records import Response
from minisheep.run.files import write_atomic
from minisheep.run.folder import Appender, read_records
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
with Appender(path) as file:
    file.append(Response("a", 0, "short", "end", 1).to_dict())
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000_000))
    for size in (2000, 900):
        try:
            file.append(Response("b", 0, "x" * size, "end", 1).to_dict())
        except DiskError:
            assert path.read_bytes() == before
        else:
            raise SystemExit("no error")
    file.append(Response("c", 0, "short", "end", 1).to_dict())
    try:
        write_atomic(path.with_name("whole"), b"x" * 2000)
    except DiskError:
        pass
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name], list(path.parent.iterdir())
print([r.instruction_id for r in read_records(path, Response)])
"""


def test_a_real_limit_of_file_size_is_survived(tmp_path: Path) -> None:
    folder = tmp_path / "limited"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder / "file.jsonl")], capture_output=True, text=True, timeout=HELD
    )
    assert done.stdout.strip() == "['a', 'c']", done.stderr


@pytest.fixture
def six_seeds(tmp_path: Path) -> Path:
    path = tmp_path / "seeds.jsonl"
    lines = [
        {"instruction": f"{verb} a {thing} for the {place}.", "output": f"One {thing}.", "held_out": i % 2 == 1}
        for i, (verb, thing, place) in enumerate(
            zip(
                ("Name", "Describe", "Sell", "Paint", "Praise", "Rhyme"),
                ("boat", "lamp", "coat", "cloud", "song", "bridge"),
                ("harbour", "attic", "market", "ceiling", "choir", "valley"),
                strict=True,
            )
        )
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.timeout(7200)  # some seconds of work for each code, or many minutes where others have the machine
@pytest.mark.parametrize(
    "codes",
    [
        (errno.ENOSPC, errno.EIO),
        *(
            pytest.param((code,), marks=pytest.mark.slow)
            for code in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
        ),
    ],
)
def test_at_whatever_call_the_disk_fails_the_run_goes_on_to_the_same_end(
    tmp_path: Path, six_seeds: Path, monkeypatch: pytest.MonkeyPatch, codes: tuple[int, ...]
) -> None:
    small = {"seeds": str(six_seeds), "shots": 1, "per_round": 2, "rounds": 1, "eval_tasks": 2, "eval_answers": 1}
    small |= {"epochs": 1, "keep": "top:1"}
    # Should the settings get lost on the way, no real model may start.
    monkeypatch.setattr("minisheep.prepare._prepare_real", None)
    # Looking these up takes longer than all the rest.
    monkeypatch.setattr("minisheep.prepare.versions", dict)
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        tiny_run(tmp_path / "undisturbed", **small)
    right = outcome(tmp_path / "undisturbed")
    assert disk.calls > 40
    for number in chosen(disk.calls):
        path, code = tmp_path / f"run-{number}", codes[number % len(codes)]
        what = f"{errno.errorcode[code]} at call {number + 1} of {disk.calls}"
        with case(number, what) as told, monkeypatch.context() as patch:
            failing = Disk(patch, number + 1, code)
            try:
                tiny_run(path, **small)
            except MinisheepError as error:
                told.append(f"it ended with {error!r}")
                assert error.exit_code == 74
            failing.fail_at = 0
            tiny_run(path, **({} if (path / "manifest.json").exists() else small))
            assert outcome(path) == right
        shutil.rmtree(path)


def test_a_replaced_file_is_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    path = folder / "file"
    write_atomic(path, b"old")
    for fail_at in (1, 2, 3):
        with monkeypatch.context() as patch:
            Disk(patch, fail_at)
            with pytest.raises(DiskError):
                write_atomic(path, b"new")
        # The third call makes the rename durable: the new content is there, only not for certain.
        assert path.read_bytes() == (b"new" if fail_at == 3 else b"old")
        assert list(folder.iterdir()) == [path]
        path.write_bytes(b"old")


def test_an_interrupted_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


# The lock


def test_a_lock_is_exclusive_and_names_its_holder(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    with pytest.raises(RunLockedError) as refused:
        Lock(tmp_path, wait_seconds=0.1)
    assert f"process {os.getpid()} on" in refused.value.message
    lock.release()
    lock.release()
    Lock(tmp_path, wait_seconds=0).release()


def test_a_lock_is_held_where_its_holder_cannot_be_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        Disk(patch, 1)
        lock = Lock(tmp_path)
    with pytest.raises(RunLockedError):
        Lock(tmp_path, wait_seconds=0)
    lock.release()


HOLD = """
import sys, time
from pathlib import Path
from minisheep.run.folder import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunLockedError):
            Lock(tmp_path, wait_seconds=0)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    Lock(tmp_path, wait_seconds=0.5).release()


def test_a_child_keeps_the_lock_that_it_inherited(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.handle,))
    lock.release()
    with pytest.raises(RunLockedError):
        Lock(tmp_path, wait_seconds=0.1)
    child.communicate(b"\n", timeout=HELD)
    Lock(tmp_path, wait_seconds=1).release()


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.handle,))
    lock.release()
    assert child.stdin is not None
    with child.stdin:
        child.stdin.write(b"\n")
    begun = time.monotonic()
    Lock(tmp_path).release()
    assert time.monotonic() - begun < 3
    child.wait()


# Damage of the other files


DAMAGE = [
    *(b"", b"{", b"[]", b"null", b"7", b"{}", b'{"phases": 3}', b'{"phases": {"round-0/evaluate": 1}}', b"\xff"),
    *(b'{"phases": {}, "preset": []}', b'{"phases": {"../../x": {}}}', b'{"phases": {}, "inputs": {"seeds": 1}}'),
    *(b'{"phases": {}, "files": {"round-1/filter": {"%s": {}}}}' % name for name in (b"../x", b"/etc/passwd")),
]


@pytest.mark.parametrize("content", DAMAGE)
def test_a_damaged_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run"
    tiny_run(path, rounds=1)
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(CorruptRunError) as found:
        tiny_run(path)
    assert str(path / "manifest.json") in found.value.message and found.value.fix
    with pytest.raises(CorruptRunError):
        _ = api.load_run(path).next_phase


def test_every_truncation_of_a_manifest_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_manifest({"phases": {"round-0/evaluate": {"tasks": 3}}})
    data = folder.manifest.read_bytes()
    for place in range(len(data) - 1):
        folder.manifest.write_bytes(data[:place])
        # All but the last newline may be needed; a file that only lost that is whole.
        if data[:place].rstrip() != data.rstrip():
            with pytest.raises(CorruptRunError, match=r"manifest\.json"):
                folder.read_manifest()


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"template": 1}'])
def test_a_damaged_model_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(CorruptRunError, match=r"model\.json"):
        PreparedModel.read(path)


def test_a_new_run_has_an_empty_manifest_and_json_round_trips(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert not folder.exists and folder.read_manifest() == {"phases": {}}
    folder.create()
    folder.write_manifest({"phases": {}, "inputs": {"é": "\u2028"}})
    assert read_json(folder.manifest) == {"phases": {}, "inputs": {"é": "\u2028"}}


def test_a_file_of_records_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    records: list[Record] = [response(0, AWKWARD), response(1)]
    replace_records(path, [response(7)])
    replace_records(path, records)
    assert read_records(path, Response) == records


@pytest.mark.parametrize(
    ("code", "way_out"),
    [
        (errno.ENOSPC, "Make room"),
        (errno.EROFS, "Mount its disk"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EIO, "See to the disk"),
    ],
)
def test_each_error_of_a_disk_has_its_own_way_out(tmp_path: Path, code: int, way_out: str) -> None:
    with pytest.raises(DiskError) as failed, disk_errors(tmp_path):
        raise OSError(code, os.strerror(code))
    assert way_out in failed.value.fix


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(DiskError, match="has no locks") as failed:
        Lock(tmp_path)
    assert str(tmp_path) in failed.value.message and "flock" in failed.value.fix


def test_events_and_records_of_other_types_are_none() -> None:
    whole = response(1).to_dict()
    other = {name: value for name, value in whole.items() if name != "id"} | {"tokens": "three"}
    with pytest.raises(ValueError, match="tokens"):
        Response.from_dict({"id": digest("response", other), **other})
    for fields in ({"step": "1"}, {"loss": None}, {"total": 10**400}, {"step": True}):
        event = {"event": "TrainStep", "round": 1, "step": 1, "total": 2, "loss": 0.5, "learning_rate": 0.1}
        from_dict({**event, "tokens_per_second": 1})
        with pytest.raises(ValueError, match=next(iter(fields))):
            from_dict({**event, "tokens_per_second": 1, **fields})


def test_what_a_killed_process_left_is_swept_when_a_run_opens_and_when_it_closes(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    run, _ = tiny_run(tmp_path / "run", rounds=1)
    inside = run.path / "round-1"

    def leave() -> None:
        for name in (f".adapter.{gone.pid}.tmp", f".adapter.{os.getpid()}.tmp"):
            (inside / name).mkdir(exist_ok=True)
            (inside / name / "half.safetensors").write_bytes(b"half")
        (inside / f".kept.jsonl.{gone.pid}.tmp").write_text("half")

    leave()
    tiny_run(run.path, rounds=1)
    assert [path.name for path in inside.glob(".*.tmp")] == [f".adapter.{os.getpid()}.tmp"]

    class Later:
        """An orphan that writes while the run goes on."""

        def __call__(self, event: object) -> None:
            leave()

    api.align(run.path, inline=True, rounds=2, emit=Later())
    assert [path.name for path in inside.glob(".*.tmp")] == [f".adapter.{os.getpid()}.tmp"]
