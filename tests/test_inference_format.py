"""Which format a CPU decodes in: the choice, its record, and what happens to copies that lose."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from minisheep.errors import UsageError
from minisheep.formats.quantise import candidates, choose, fastest, recorded
from minisheep.machine import cpu

CPUINFO = (
    "processor: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx512_bf16 sse\n\nprocessor: 1\nmodel name\t: Some CPU\n"
)
BOTH = ("q8_0", "bf16")


def test_bfloat16_is_tried_where_the_cpu_multiplies_it_and_the_model_is_small() -> None:
    flags = cpu.flags(CPUINFO)
    assert candidates(flags, 135_000_000) == BOTH
    assert candidates(flags, 7_000_000_000) == ("q8_0",)
    assert candidates(flags - {"avx512_bf16"}, 135_000_000) == ("q8_0",)


def test_the_cpu_is_named() -> None:
    assert cpu.name(CPUINFO) == "Some CPU"
    assert cpu.name("") == ""


def test_only_some_cpus_multiply_bfloat16() -> None:
    assert cpu.multiplies_bfloat16(cpu.flags("flags : avx512f avx512_bf16 fma"))
    assert not cpu.multiplies_bfloat16(cpu.flags("flags : avx512f avx2"))


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [({"q8_0": 100.0, "bf16": 140.0}, "bf16"), ({"q8_0": 100.0, "bf16": 104.0}, "q8_0"), ({"q8_0": 9.0}, "q8_0")],
)
def test_a_larger_format_must_be_clearly_faster(rates: dict[str, float], chosen: str) -> None:
    assert fastest(rates) == chosen


class Machine:
    """A labelled fake: makes empty files, and has a speed for each."""

    def __init__(self, folder: Path, **rates: list[float]) -> None:
        self.folder, self.rates = folder, rates
        self.measured: list[str] = []

    def make(self, format: str) -> Path:
        path = self.folder / format
        path.touch()
        return path

    def rate(self, copy: Path) -> float:
        self.measured.append(copy.name)
        return self.rates[copy.name].pop(0)


def nothing(_: str) -> None:
    pass


def test_formats_are_measured_in_turns_and_the_best_try_counts(tmp_path: Path) -> None:
    told: list[str] = []
    machine = Machine(tmp_path, q8_0=[100.0, 20.0], bf16=[30.0, 150.0])
    chosen, rates = choose(BOTH, machine.make, machine.rate, tmp_path / "speed.json", "m", told.append)
    assert (chosen, rates) == ("bf16", {"q8_0": 100.0, "bf16": 150.0})
    assert machine.measured == ["q8_0", "bf16", "q8_0", "bf16"]
    assert told == ["Tokens/s of a short try on this machine: Q8_0 100, BF16 150; BF16 is used from now on."]
    assert (tmp_path / "bf16").exists() and not (tmp_path / "q8_0").exists()


def test_a_machine_is_measured_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path, q8_0=[100.0, 100.0], bf16=[150.0, 150.0])
    first, _ = choose(BOTH, machine.make, machine.rate, tmp_path / "speed.json", "m", nothing)
    again, rates = choose(BOTH, machine.make, machine.rate, tmp_path / "speed.json", "m", nothing)
    assert (first, again, rates["bf16"], len(machine.measured)) == ("bf16", "bf16", 150.0, 4)


@pytest.mark.parametrize("record", ["", "[]", '{"m": 3}', '{"other": {"q8_0": 1, "bf16": 9}}'])
def test_a_record_that_is_broken_or_of_another_machine_is_not_believed(tmp_path: Path, record: str) -> None:
    (tmp_path / "speed.json").write_text(record)
    machine = Machine(tmp_path, q8_0=[100.0, 100.0], bf16=[50.0, 50.0])
    assert choose(BOTH, machine.make, machine.rate, tmp_path / "speed.json", "m", nothing)[0] == "q8_0"
    assert recorded(tmp_path / "speed.json")["m"] == {"q8_0": 100.0, "bf16": 50.0}


def test_another_number_of_threads_takes_no_copy_from_a_run_that_works_with_it(tmp_path: Path) -> None:
    """Runs with --threads 1 and 2 side by side on one machine may each find another format faster."""
    one = Machine(tmp_path, q8_0=[100.0, 100.0], bf16=[150.0, 150.0])
    assert choose(BOTH, one.make, one.rate, tmp_path / "speed.json", "m, 1 threads", nothing)[0] == "bf16"
    two = Machine(tmp_path, q8_0=[200.0, 200.0], bf16=[150.0, 150.0])
    assert choose(BOTH, two.make, two.rate, tmp_path / "speed.json", "m, 2 threads", nothing)[0] == "q8_0"
    assert (tmp_path / "bf16").exists() and (tmp_path / "q8_0").exists()
    again = choose(BOTH, one.make, one.rate, tmp_path / "speed.json", "m, 1 threads", nothing)[0]
    assert again == "bf16" and not any(one.rates.values())


def test_of_two_runs_that_begin_at_once_the_second_takes_what_the_first_found(tmp_path: Path) -> None:
    """Else each would choose by its own measurement, and delete the copy that the other works with."""
    one = Machine(tmp_path, q8_0=[100.0, 100.0], bf16=[150.0, 150.0])
    two = Machine(tmp_path, q8_0=[200.0, 200.0], bf16=[150.0, 150.0])
    waits, found = threading.Event(), []
    second = threading.Thread(
        target=lambda: found.append(
            choose(BOTH, two.make, two.rate, tmp_path / "speed.json", "m", lambda _: waits.set())[0]
        )
    )

    def rate(copy: Path) -> float:
        if not second.ident:
            second.start()
            waits.wait(10)
        return one.rate(copy)

    assert choose(BOTH, one.make, rate, tmp_path / "speed.json", "m", nothing)[0] == "bf16"
    second.join(10)
    assert found == ["bf16"] and not two.measured and (tmp_path / "bf16").exists()


def test_one_candidate_is_not_measured(tmp_path: Path) -> None:
    assert choose(("q8_0",), Path, lambda _: 1 / 0, tmp_path / "speed.json", "m", nothing) == ("q8_0", {})


def test_a_measurement_that_fails_leaves_the_default(tmp_path: Path) -> None:
    def rate(_: Path) -> float:
        raise UsageError("no memory")

    told: list[str] = []
    assert choose(BOTH, Machine(tmp_path).make, rate, tmp_path / "speed.json", "m", told.append) == ("q8_0", {})
    assert len(told) == 1 and "Q8_0" in told[0]
