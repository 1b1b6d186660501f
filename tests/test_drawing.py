"""Tokens that compiled code draws: the same as by the reference and by numpy, whatever the threads and the cache do."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_sampling import clear

from benchmarks.drawing import KINDS, plain_draw
from minisheep.engines.base import EngineInfo, Sampling
from minisheep.engines.llamacpp import way_of_drawing
from minisheep.engines.sampling import Sampler, draw, sample
from minisheep.errors import ModelFileError
from minisheep.open_engines import tell_engine
from minisheep.run.events import EngineReady, Note

numba = pytest.importorskip("numba", reason="the extra `fast`")

from minisheep.engines.drawing import LINE, SHARE, CompiledDraw  # noqa: E402

SIZES = [1, 7, 15, 16, 17, 64, 300, 4096, 5000, 60_001, 60_032]
TOP_P = [1e-9, 0.5, 0.95, 1.0]
TEMPERATURES = [0.3, 1.0, 2.0]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


def placed(folder: Path, threads: int) -> CompiledDraw:
    """With its cache in that folder, whatever another test had before."""
    numba.config.CACHE_DIR = ""
    return CompiledDraw(folder, threads)


@pytest.fixture(scope="session")
def compiled(folder: Path) -> CompiledDraw:
    return placed(folder, 3)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from(SIZES),
    spread=st.sampled_from([0.0, 0.3, 1.0, 2.5, 6.0]),
    boost=st.sampled_from([0.0, 3.0, 7.9, 8.1, 20.0]),
    grid=st.booleans(),
    top_k=st.sampled_from([0, 1, 5, 300, 1024, "size"]),
    top_p=st.sampled_from(TOP_P),
    temperature=st.sampled_from(TEMPERATURES),
)
def test_the_same_tokens_are_drawn_as_by_the_reference(
    compiled: CompiledDraw, seed: int, size: int, spread: float, boost: float, grid: bool, top_k: Any, top_p: float,
    temperature: float,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    several = rng.normal(0, spread, (3, size))
    several[:, rng.integers(0, size, 3)] += boost
    several = (np.round(several * 4) / 4 if grid else several).astype(np.float32)
    sampling = Sampling(top_k=size if top_k == "size" else top_k, top_p=top_p, temperature=temperature)
    chances = rng.random((3, 3))
    assume(all(clear(row, sampling, chances[:, at]) for at, row in enumerate(several)))
    for some in (*chances, np.zeros(3), np.full(3, 1 - 1e-7)):
        expected = [plain_draw(row, sampling, chance) for row, chance in zip(several, some, strict=True)]
        assert compiled(list(several), sampling, some) == expected


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from(SIZES),
    spread=st.sampled_from([0.0, 1e-42, 1e-6, 0.01, 0.5, 2.5, 30.0, 1e6, 1e37]),
    shift=st.sampled_from([0.0, -50.0, 25.0, 1e5]),
    boost=st.sampled_from([0.0, 8.0, 20.0]),
    grid=st.booleans(),
    barred=st.booleans(),
    top_k=st.sampled_from([0, 1, 2, 50, 1024, 100_000]),
    top_p=st.sampled_from(TOP_P),
    temperature=st.sampled_from([0.05, *TEMPERATURES, 10.0]),
)
def test_the_same_tokens_are_drawn_as_by_numpy_with_ties_and_odd_rows(
    compiled: CompiledDraw, seed: int, size: int, spread: float, shift: float, boost: float, grid: bool, barred: bool,
    top_k: int, top_p: float, temperature: float,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    several = rng.normal(0, spread, (3, size)) + shift
    several[:, rng.integers(0, size, 3)] += boost
    several = np.round(several * 4) / 4 if grid else several
    if barred:
        several[:, rng.random(size) < 0.5] = -np.inf
        several[:, rng.integers(size)] = -0.0
    rows, sampling = list(several.astype(np.float32)), Sampling(top_k=top_k, top_p=top_p, temperature=temperature)
    for chances in (rng.random(3), np.zeros(3), np.full(3, 1 - 2.0**-53)):
        assert compiled(rows, sampling, chances) == draw(rows, sampling, chances)


def test_at_any_temperature_what_cannot_be_drawn_is_not(compiled: CompiledDraw) -> None:
    """The reach, 16 nats times the temperature, stays finite."""
    row = np.full(640, -np.inf, dtype=np.float32)
    row[[5, 600]] = 3, 2
    chances = np.array([0.0, 0.4, 0.6, 1 - 1e-9])
    assert compiled([row] * 4, Sampling(temperature=1e38, top_k=0, top_p=1), chances) == [5, 5, 600, 600]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_kind_of_a_large_vocabulary(compiled: CompiledDraw, kind: str) -> None:
    rng = np.random.default_rng(8)
    rows, chances = [KINDS[kind](rng, 151_936).astype(np.float32) for _ in range(20)], rng.random(20)
    plain = [plain_draw(row, Sampling(), chance) for row, chance in zip(rows, chances, strict=True)]
    assert compiled(rows, Sampling(), chances) == plain


def test_of_equal_tokens_the_lower_ids_stay_and_come_first(compiled: CompiledDraw) -> None:
    row = np.zeros(300, dtype=np.float32)
    assert compiled([row], Sampling(), np.array([1 - 1e-9])) == [284]
    # A chance that falls on the end of a token's part is the next one's.
    assert compiled([row[:4]], Sampling(top_p=1), np.array([0.5])) == [2]
    row[100:] = 1
    assert compiled([row] * 2, Sampling(top_k=150, top_p=1), np.array([0.0, 1 - 1e-9])) == [100, 249]
    # Of many whose bin is the same: two values in turns, of which the larger is that of every third token.
    row = np.full(30_000, 5.0, dtype=np.float32)
    row[::3] = np.nextafter(np.float32(5), np.float32(6))
    row[7] = 13.3
    drawn = compiled([row] * 3, Sampling(top_k=20_000, top_p=1), np.array([0.5, 0.85, 1 - 1e-9]))
    assert drawn == draw([row] * 3, Sampling(top_k=20_000, top_p=1), np.array([0.5, 0.85, 1 - 1e-9]))
    assert drawn[0] % 3 == 0 != drawn[2] % 3


def test_a_bin_with_most_of_the_vocabulary_is_ordered_in_time(compiled: CompiledDraw) -> None:
    """Two values in turns, far below the best: insertion alone would move each of one past all of the other."""
    row = np.full(151_936, 5.0, dtype=np.float32)
    row[1::2] = np.nextafter(np.float32(5), np.float32(6))
    row[7] = 13.3
    began = time.process_time()
    assert compiled([row], Sampling(top_k=0, top_p=1), np.array([1 - 1e-9])) == [151_934]
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("place", [0, 30, 47, 48, 49])
@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x7F800000])
def test_logits_that_are_no_numbers_are_refused(compiled: CompiledDraw, place: int, bits: int) -> None:
    """NaN of either sign, anywhere, and infinity; 48 and 49 stand in the line that is filled up."""
    several = np.zeros((3 * SHARE, 50), dtype=np.float32)
    several[:, 20] = -np.inf
    chances = np.random.default_rng(1).random(len(several))
    assert 20 not in compiled(list(several), Sampling(), chances)
    several.view(np.uint32)[5, place] = bits
    with pytest.raises(ModelFileError, match="no numbers"):
        compiled(list(several), Sampling(), chances)


def test_what_another_thread_refuses_is_refused(compiled: CompiledDraw, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def kernel(*given: Any) -> bool:
        """Another thread meets the row that is no number."""
        if threading.current_thread() is threading.main_thread():
            return begun.wait(30)
        begun.set()
        return False

    monkeypatch.setattr(compiled, "_kernel", kernel)
    with pytest.raises(ModelFileError, match="no numbers"):
        compiled([np.zeros(64, dtype=np.float32)] * 2 * SHARE, Sampling(), np.zeros(2 * SHARE))


def test_a_row_without_any_likely_token_is_refused(compiled: CompiledDraw) -> None:
    with pytest.raises(ModelFileError, match="no numbers"):
        compiled([np.full(64, -np.inf, dtype=np.float32)], Sampling(), np.array([0.5]))


def test_a_floor_at_the_edge_of_a_bin_costs_no_token(compiled: CompiledDraw) -> None:
    """The last of `top_k` values lies in the bin where the histogram has enough, and by rounding below its edge."""
    row = np.full(64 * LINE, -100, dtype=np.float32)
    row[::LINE] = -6.1051927
    row[: 39 * LINE : LINE] = 3
    row[0], row[39 * LINE] = 5.839639, -4.3321314
    assert compiled([row], Sampling(top_k=40, top_p=1), np.array([1 - 1e-12])) == [39 * LINE]


def test_what_the_compiled_code_cannot_read_numpy_draws(compiled: CompiledDraw) -> None:
    rng = np.random.default_rng(3)
    wide = rng.normal(0, 2, (4, 63 * LINE))
    locked = wide.astype(np.float32)
    locked.flags.writeable = False
    for rows in (list(wide), list(wide.astype(np.float32)[:, ::3]), list(locked)):
        assert compiled(rows, Sampling(), np.full(4, 0.7)) == draw(rows, Sampling(), np.full(4, 0.7))
    greedy = Sampling(temperature=0)
    assert compiled([locked[0], wide[1]], greedy, np.zeros(2)) == [locked[0].argmax(), wide[1].argmax()]


@pytest.mark.parametrize("threads", [1, 2, 8, 64])
def test_threads_draw_what_one_after_the_other_would(folder: Path, threads: int) -> None:
    rows = list(np.random.default_rng(3).normal(0, 2, (37, 20_000)).astype(np.float32))
    ways = (Sampling(), Sampling(temperature=0.7, top_p=0.8, top_k=50), Sampling(temperature=0))
    alone = [Sampler(ways[seed % 3], seed) for seed in range(37)]
    together = [Sampler(ways[seed % 3], seed) for seed in range(37)]
    way = placed(folder, threads)
    for count in (37, 2, *[36] * 3):
        expected = [sampler.sample(row) for sampler, row in zip(alone[:count], rows, strict=False)]
        assert sample(together[:count], rows[:count], way) == expected


def test_nobody_waits_for_a_thread_that_has_not_begun(compiled: CompiledDraw) -> None:
    """Where the cores are busy with something else, the one that asks draws all rows."""
    rows = list(np.random.default_rng(3).normal(0, 2, (16, 5000)).astype(np.float32))
    expected = draw(rows, Sampling(), np.full(16, 0.3))
    free = threading.Event()
    held = [compiled._helpers.submit(free.wait, 30) for _ in range(2)]
    try:
        assert compiled(rows, Sampling(), np.full(16, 0.3)) == expected
    finally:
        free.set()
    assert all(part.result() for part in held)


def test_what_was_compiled_once_is_loaded_again(compiled: CompiledDraw, folder: Path) -> None:
    assert list(folder.rglob("*.nbi"))
    assert placed(folder, 1)._kernel.stats.cache_hits


def only_our_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where neither the package nor the user's home can be written to: numba then has no other place."""
    caching = sys.modules["numba.core.caching"]
    for name in ("InTreeCacheLocator", "UserWideCacheLocator", "IPythonCacheLocator"):
        monkeypatch.setattr(getattr(caching, name), "from_function", classmethod(lambda *given: None))


@pytest.mark.parametrize("fault", ["no folder", "full disk", "damaged"])
def test_a_cache_that_fails_costs_time_and_no_run(
    folder: Path, compiled: CompiledDraw, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_our_folder(monkeypatch)
    where = tmp_path / "compiled"
    if fault == "no folder":
        where.write_text("a file")
    elif fault == "full disk":
        caching = sys.modules["numba.core.caching"]

        def full(*given: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(caching.FunctionCache, "save_overload", full)
    else:
        for path in folder.rglob("drawing.*"):
            kept = where / path.relative_to(folder)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(path.read_bytes()[: 2000 if path.suffix == ".nbc" else None])
    row = np.random.default_rng(3).normal(0, 2, 5000).astype(np.float32)
    way = placed(where, 1)
    assert way([row], Sampling(), np.array([0.3])) == draw([row], Sampling(), np.array([0.3]))
    assert not way._kernel.stats.cache_hits


def test_without_numba_numpy_draws_and_what_to_install_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "minisheep.engines.drawing")
    monkeypatch.delattr("minisheep.engines.drawing")
    way, warning = way_of_drawing(2)
    assert way is draw and "ModuleNotFoundError" in warning and "pip install" in warning


def test_with_numba_compiled_code_draws(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINISHEEP_CACHE", str(folder.parent))
    numba.config.CACHE_DIR = str(folder)
    way, warning = way_of_drawing(2)
    assert isinstance(way, CompiledDraw) and not warning


@pytest.mark.parametrize("fault", [ImportError("numba needs\n another numpy"), RuntimeError("\x1b[1mno LLVM")])
def test_a_numba_that_fails_is_told_and_ends_nothing(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ModuleType("minisheep.engines.drawing")

    def fail(*given: Any) -> Any:
        raise fault

    broken.CompiledDraw = fail  # type: ignore[attr-defined]
    monkeypatch.setattr("minisheep.engines.drawing", broken)
    way, warning = way_of_drawing(2)
    assert way is draw
    assert "drawn with numpy" in warning and "pip install" in warning and warning.isprintable()


def test_a_numba_that_was_told_not_to_compile_is_found_before_a_phase(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINISHEEP_CACHE", str(folder.parent))
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    way, warning = way_of_drawing(2)
    assert way is draw and "drawn with numpy" in warning


@pytest.mark.parametrize(("sizes", "chances"), [((64, 16), 2), ((16, 64), 2), ((64, 64, 64), 2)])
def test_what_does_not_fit_together_is_not_read_beyond_its_end(
    compiled: CompiledDraw, sizes: tuple[int, ...], chances: int
) -> None:
    rows = [np.arange(size, dtype=np.float32) for size in sizes]
    with pytest.raises(ValueError, match="shape"):
        compiled(rows, Sampling(), np.zeros(chances))


def test_what_an_engine_warns_of_is_told_once_it_is_ready() -> None:
    told: list[Any] = []
    tell_engine(EngineInfo("llamacpp", "an engine", 4, 512), told.append, ", 4 slots")
    assert told == [EngineReady("llamacpp", "an engine, 4 slots")]
    tell_engine(EngineInfo("llamacpp", "an engine", 4, 512, "It is slow."), told.append)
    assert told[1:] == [EngineReady("llamacpp", "an engine"), Note("It is slow.", "warning")]
