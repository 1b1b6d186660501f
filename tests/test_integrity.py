"""What a finished phase left is checked before anything rests on it, and a damaged phase can be done again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_runs import minisheep, outcome, tiny_run

from minisheep import api, loop
from minisheep.cli.main import cli
from minisheep.errors import ConfigError, CorruptRunError, DiskError, UsageError
from minisheep.run.events import Note
from minisheep.run.files import check_links, read_json, write_json
from minisheep.run.folder import FILES, RunFolder
from minisheep.run.integrity import Damage, mark_lines, mark_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    tiny_run(run, judge="auto", exam_tasks=12, exam_auc=0.5, exam_kind=0)
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def result(run: Path) -> dict[str, Any]:
    """The outcome, with lines in any order: a phase that is done again appends what was lost."""
    return {name: sorted(map(str, v)) if isinstance(v, list) else v for name, v in outcome(run).items()}


def begun(run: Path) -> list[Path]:
    """The files of round 1, in the order of its phases."""
    paths = (run / "round-1" / file.name for files in FILES.values() for file in files)
    return [path for path in paths if path.is_file()]


def test_every_file_of_a_finished_phase_has_a_mark(run: Path) -> None:
    files = RunFolder(run).read_manifest()["files"]
    marked = {f"{key.partition('/')[0]}/{name}" for key, marks in files.items() for name in marks}
    there = {str(path.relative_to(run)) for path in run.glob("round-*/**/*") if path.is_file()}
    assert marked == there


@pytest.mark.parametrize("how", ["deleted", "halved", "changed", "garbled"])
def test_damage_is_named_with_the_command_that_mends_it_and_the_mended_run_is_the_old_one(run: Path, how: str) -> None:
    right = result(run)
    asked = set()
    for path in begun(run):
        data = path.read_bytes()
        if how == "deleted":
            path.unlink()
        elif how == "halved":
            lines = data.splitlines(keepends=True)
            path.write_bytes(b"".join(lines[: len(lines) // 2]) if len(lines) > 1 else data[: len(data) // 2])
        elif how == "garbled":
            path.write_bytes(b"no JSON {\n")
        else:
            path.write_bytes(data.replace(b"1", b"2", 1))
        if path.exists() and path.read_bytes() == data:
            continue
        with pytest.raises(CorruptRunError) as refused:
            tiny_run(run)
        assert str(path) in refused.value.message and "minisheep" in refused.value.fix
        while damaged := api.load_run(run).damage:
            first = damaged[0]
            assert first.command in CliRunner().invoke(cli, ["status", str(run)]).output
            _, said = tiny_run(run, until=loop.Phase(first.round, first.phase))
            assert any(isinstance(event, Note) and "came out as before" in event.text for event in said), path
            asked.add(first.phase)
        assert result(run) == right, path
    assert asked == {"exam", "generate", "respond", "judge", "filter", "train", "evaluate"}


def test_what_rests_on_a_phase_that_comes_out_otherwise_is_set_aside_and_made_anew(run: Path) -> None:
    right = result(run)
    # As if another model had written: the digest that was kept is not that of what comes now.
    folder = RunFolder(run)
    manifest = folder.read_manifest()
    manifest["files"]["round-1/respond"]["responses.jsonl"]["digest"] = "0" * 64
    folder.write_manifest(manifest)
    opened, said = tiny_run(run, until=loop.Phase(1, "respond"))
    assert any(isinstance(event, Note) and "replaced-1" in event.text for event in said)
    assert opened.next_phase == loop.Phase(1, "judge")
    assert (run / "replaced-1" / "round-2" / "adapter" / "adapter_model.safetensors").exists()
    tiny_run(run)
    assert result(run) == right


def test_a_measurement_done_again_leaves_the_data_alone(run: Path) -> None:
    (run / "round-1" / "metrics.json").unlink()
    kept = (run / "round-2" / "kept.jsonl").stat().st_ctime_ns
    tiny_run(run, until=loop.Phase(1, "evaluate"))
    assert (run / "round-2" / "kept.jsonl").stat().st_ctime_ns == kept and not api.load_run(run).damage


def test_a_filter_done_again_with_another_keep_has_new_marks_and_keeps_no_old_adapter(tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny_run(run, until=loop.Phase(1, "filter"))
    before = RunFolder(run).read_manifest()["files"]["round-1/filter"]
    # A training that was cut off between its adapter and the manifest.
    (run / "round-1" / "adapter").mkdir()
    (run / "round-1" / "training.json").write_text("{}")
    tiny_run(run, until=loop.Phase(1, "filter"), keep="top:0.25")
    assert not (run / "round-1" / "adapter").exists() and not (run / "round-1" / "training.json").exists()
    assert RunFolder(run).read_manifest()["files"]["round-1/filter"]["kept.jsonl"] != before["kept.jsonl"]
    assert not api.load_run(run).damage
    tiny_run(run)


def test_a_run_without_a_manifest_is_damaged_and_not_new(run: Path) -> None:
    (run / "manifest.json").unlink()
    for way in (lambda: tiny_run(run), lambda: api.load_run(run), lambda: api.align(run)):
        with pytest.raises(CorruptRunError, match=r"manifest\.json is missing"):
            way()


def test_older_runs_have_no_marks_and_go_on(run: Path) -> None:
    folder = RunFolder(run)
    manifest = folder.read_manifest()
    del manifest["files"]
    folder.write_manifest(manifest)
    (run / "round-1" / "judge.json").unlink()
    assert not api.load_run(run).damage
    tiny_run(run, rounds=3)
    assert {key.partition("/")[0] for key in folder.read_manifest()["files"]} == {"round-3"}


@pytest.mark.parametrize(("best", "told"), [(None, r"round-1/metrics\.json is missing"), (7, "7 is missing")])
def test_an_older_run_that_lost_measures_says_which(run: Path, best: int | None, told: str) -> None:
    folder = RunFolder(run)
    manifest = folder.read_manifest()
    del manifest["files"]
    folder.write_manifest(manifest | {"preset": "\ud800"})  # which UTF-8 cannot hold
    if best is None:
        folder.round(1).metrics.unlink()
    else:
        metrics = read_json(folder.round(2).metrics)
        metrics["decision"]["best"] = best
        write_json(folder.round(2).metrics, metrics)
    with pytest.raises(CorruptRunError, match=told):
        tiny_run(run, rounds=3)


def test_an_older_run_that_lost_verdicts_says_which_file(tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny_run(run, until=loop.Phase(1, "judge"))
    folder = RunFolder(run)
    manifest = folder.read_manifest()
    del manifest["files"]
    folder.write_manifest(manifest)
    path = run / "round-1" / "verdicts.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    with pytest.raises(CorruptRunError, match=r"round-1/verdicts\.jsonl"):
        tiny_run(run)


def test_leaves_use_no_damaged_file(run: Path) -> None:
    (run / "round-2" / "adapter.gguf").write_bytes(b"other")
    (run / "round-1" / "answers.jsonl").unlink()
    for verb in (
        ("chat", str(run), "--round", "2", "--once", "Why?"),
        ("serve", str(run), "--round", "2"),
        ("soup", str(run), "--rounds", "1,2"),
        ("versus", str(run), "--judge-url", "http://127.0.0.1:1/v1", "--judge-model-name", "m", "--round", "1"),
    ):
        found = CliRunner().invoke(cli, verb, standalone_mode=False)
        assert isinstance(found.exception, CorruptRunError), found.exception
    # What only shows a run says so and shows the rest.
    for verb in (("report", str(run)), ("compare", str(run)), ("browse", str(run), "--plain")):
        found = CliRunner().invoke(cli, verb, standalone_mode=False)
        # A table breaks its notes where the terminal ends.
        said = " ".join((found.output + found.stderr).split())
        assert found.exception is None and "minisheep train --run" in said, verb
    told = json.loads(CliRunner().invoke(cli, ["status", str(run), "--json"]).output)
    assert [one["file"] for one in told["damage"]] == ["answers.jsonl", "adapter.gguf"]


def test_the_command_line_mends_what_its_message_says(run: Path) -> None:
    (run / "round-2" / "verdicts.jsonl").unlink()
    refused = minisheep("align", "--run", str(run))
    assert refused.returncode == 1 and f"minisheep judge --run {run}" in refused.stderr
    assert minisheep("judge", "--run", str(run), "--plain").returncode == 0
    assert minisheep("align", "--run", str(run), "--plain").returncode == 0


def test_lines_are_marked_in_any_order_and_streamed(tmp_path: Path) -> None:
    lines = [f'{{"id":"{n}","stage":"{("filter", "generate")[n % 2]}"}}\n'.encode() for n in range(50)]
    path = tmp_path / "file.jsonl"
    path.write_bytes(b"".join(lines) + b'{"torn')
    assert mark_of(path) == mark_lines(reversed(lines)) and mark_lines(lines)["lines"] == 50
    path.write_bytes(b"".join(lines[:25]))
    assert mark_of(path) != mark_lines(lines)
    assert mark_of(path, "filter") == mark_lines(lines[:25:2])
    assert mark_lines([lines[0], lines[0]]) != mark_lines([lines[1], lines[1]])


# Links


def test_nothing_is_written_through_a_link_or_read_out_of_the_folder(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious\n")
    for place in ("round-1/responses.jsonl", "events.jsonl", ".lock", "scratch/present.json", "report"):
        path = run / place
        kept = tmp_path / "kept"
        if path.exists():
            path.rename(kept)
        path.symlink_to(mine if place != "report" else tmp_path)
        for way in (lambda: tiny_run(run), lambda: api.load_run(run), lambda: api.Run(run).report()):
            with pytest.raises(CorruptRunError, match="link"):
                way()
        path.unlink()
        if kept.exists():
            kept.rename(path)
    assert mine.read_text() == "precious\n"
    tiny_run(run)


def test_a_run_folder_may_itself_be_reached_by_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    assert api.load_run(tmp_path / "link").next_phase is None
    # And a link that stays inside may be read, but not written through.
    (run / "newest").symlink_to(run / "round-2")
    assert api.load_run(run).next_phase is None
    with pytest.raises(CorruptRunError, match="link"):
        tiny_run(run)


def test_a_pipe_in_a_run_folder_makes_nobody_wait(run: Path) -> None:
    (run / "round-1" / "kept.jsonl").unlink()
    os.mkfifo(run / "round-1" / "kept.jsonl")
    with pytest.raises(CorruptRunError, match="is a named pipe, which no run holds"):
        api.load_run(run)


@pytest.mark.parametrize("name", [".lock", "model.json", "run.toml", "manifest.json"])
def test_no_verb_without_a_run_waits_for_a_pipe_in_one(
    run: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    run.rename(runs / "evil")
    (runs / "evil" / name).unlink()
    os.mkfifo(runs / "evil" / name)
    monkeypatch.chdir(tmp_path)
    for verb in (["attach"], ["stop"], ["models", "--cache"], ["runs"], ["align", "--run", "runs/evil", "--dry-run"]):
        found = minisheep(*verb, timeout=60)
        assert found.returncode in (0, 1, 2) and "Traceback" not in found.stderr, verb


@pytest.mark.parametrize("name", ["manifest.json", "run.toml", "events.jsonl", "round-1/kept.jsonl", "eval/x.json"])
def test_a_file_of_holes_is_told_and_not_read_into_memory(run: Path, name: str) -> None:
    """A few bytes of an archive can be terabytes to whoever reads them."""
    path = run / name
    path.parent.mkdir(exist_ok=True)
    with open(path, "ab") as file:
        file.truncate(1 << 41)
    for way in (lambda: tiny_run(run), lambda: api.load_run(run), lambda: api.Run(run).report()):
        with pytest.raises(CorruptRunError, match="a file of 2199"):
            way()


def test_what_is_being_written_or_has_gone_meanwhile_is_no_damage(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at a run does so while it writes: safetensors makes a file as long as it will be, then fills it."""
    with open(run / "round-1" / ".tmpGlwc9", "ab") as file:
        file.truncate(1 << 41)
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda root: [(*at[:2], [*at[2], "gone"]) for at in walk(root)])
    link = run.parent / "link"
    link.symlink_to(run)
    for root in (run, link):
        for writing in (False, True):
            check_links(root, writing=writing)


def test_a_large_number_in_the_settings_is_no_damage(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["settings"]["lora_alpha"] = 1e300
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="lora-alpha"):
        tiny_run(run)


def test_a_large_file_that_holds_what_it_says_is_read(tmp_path: Path) -> None:
    file = tmp_path / "adapter.gguf"
    file.write_bytes(bytes(range(1, 256)) * 4096)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minisheep.run.files.LONGEST", 1 << 19)
        check_links(tmp_path, writing=True)
        file.rename(tmp_path / "tokenizer.json")
        with pytest.raises(CorruptRunError, match="a file of 1 MB"):
            check_links(tmp_path, writing=True)


def cut(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:20])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("temperature = 0.8", "temperature = 0.1"), "--generate-temperature is 0.8 there"),
        (cut, "--engine is 'fake' there"),
        (lambda text: "", "--per-round is 12 there"),
    ],
)
def test_settings_that_bind_a_run_are_those_that_it_began_with(run: Path, change: Any, told: str) -> None:
    path = run / "run.toml"
    whole = path.read_text()
    assert "generate_temperature = 0.8" in whole
    path.write_text(change(whole))
    for way in (lambda: tiny_run(run, rounds=3), lambda: api.load_run(run).settings):
        with pytest.raises(ConfigError) as refused:
            way()
        assert str(path) in refused.value.message and "has changed since the run began" in refused.value.message
    assert told in refused.value.message
    # Where a model or a file lies may be another on another machine.
    path.write_text(whole.replace('prompts = ""', f'prompts = "{run}"').replace("threads = 0", "threads = 1"))
    assert api.load_run(run).settings.threads == 1
    # Runs of before this was kept, or of somebody who took it out, are read as they are.
    folder = RunFolder(run)
    manifest = folder.read_manifest()
    del manifest["settings"]
    folder.write_manifest(manifest)
    path.write_text(whole.replace("generate_temperature = 0.8", "generate_temperature = 0.1"))
    assert api.load_run(run).settings.generate_temperature == 0.1


@pytest.mark.parametrize(
    ("phase", "name"),
    [("generate", "drafts"), ("generate", "instructions"), ("respond", "responses"), ("judge", "verdicts")],
)
def test_an_unfinished_phase_takes_no_records_of_another_round(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, name: str
) -> None:
    """Files that were mixed up, or two runs in one folder: nothing marks what a phase that goes on has written."""
    monkeypatch.setenv("MINISHEEP_FAULT", f"full:{phase}:2")
    monkeypatch.setattr("minisheep.run.events._seen", {})
    with pytest.raises(DiskError, match="Injected"):
        tiny_run(tmp_path / "run", judge="auto", exam_tasks=12, exam_auc=0.5, exam_kind=0)
    monkeypatch.delenv("MINISHEEP_FAULT")
    path = tmp_path / "run" / "round-1" / f"{name}.jsonl"
    mine = path.read_bytes()
    path.write_bytes(mine + (whole / "round-2" / path.name).read_bytes())
    with pytest.raises(CorruptRunError, match="of another round or run") as refused:
        tiny_run(tmp_path / "run")
    assert str(path) in refused.value.message and "take the line out" in refused.value.fix
    path.write_bytes(mine)
    tiny_run(tmp_path / "run")
    assert result(tmp_path / "run") == result(whole)


def test_what_killed_processes_left_is_swept_when_the_run_goes_on(run: Path) -> None:
    places = (".manifest.json", "round-1/.kept.jsonl", "report/.report.html", "judged/.j.json", "scratch/.present.json")
    left = [run / f"{place}.999999999.tmp" for place in places]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    # An export has a lock of its own, which a machine that shares the disk may hold; it sweeps its own place.
    (export := run / "export" / ".gguf-round-1-F16.999999999.tmp").mkdir(parents=True)
    tiny_run(run)
    assert not any(path.exists() for path in left) and export.exists()


def test_a_name_that_no_file_can_have_is_damage_of_the_manifest(run: Path) -> None:
    path = run / "manifest.json"
    path.write_text(path.read_text().replace('"kept.jsonl"', '"kept\\u0000"', 1))
    with pytest.raises(CorruptRunError, match="manifest"):
        _ = api.load_run(run).damage


def test_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        api.load_run(tmp_path)


def test_the_commands_of_a_damaged_run_fit_a_shell(tmp_path: Path) -> None:
    damage = Damage(tmp_path / "my run", 1, "filter", "kept.jsonl", "is missing")
    said = damage.error(others=2)
    assert f"`minisheep status '{tmp_path}/my run'` lists them" in said.message


@pytest.mark.parametrize("file", ["adapter.gguf", "metrics.json"])
def test_what_is_gone_is_damage_and_not_yet_to_come(run: Path, file: str) -> None:
    """A round of a finished run whose adapter or measures were deleted has not "trained no round yet"."""
    for path in run.glob(f"round-*/{file}"):
        path.unlink()
    judge = ("--judge-url", "http://127.0.0.1:1/v1", "--judge-model-name", "m")
    verbs: list[tuple[str, ...]] = [("versus", *judge), ("versus", *judge, "--round", "1"), ("soup", "--rounds", "1,2")]
    verbs += [("compare",)] if file == "metrics.json" else [("chat", "--once", "Hi"), ("serve", "--round", "last")]
    for verb, *more in verbs:
        found = CliRunner().invoke(cli, [verb, str(run), *more], standalone_mode=False)
        assert isinstance(found.exception, CorruptRunError), (verb, found.exception)
        assert file in found.exception.message and "minisheep" in found.exception.fix
