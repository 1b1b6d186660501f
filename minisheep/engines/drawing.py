"""The tokens of `sampling.draw`, drawn by code that numba compiles: one call for many rows, in less than half the time.

A row is read from memory once, for the maximum of each line of 16 logits; then it lies in the core's cache. A histogram
of these maxima tells a value that enough tokens reach and few more, which are gathered from their lines alone and put
in order by a second histogram. While it runs, the interpreter is free for another thread. Imports numba, an extra.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as numba_intrinsic

from minisheep.engines.base import Sampling
from minisheep.engines.sampling import NEGLIGIBLE, draw, finite

LINE = 16
"""Logits of a line, 64 bytes: what a core takes from memory at once."""
COARSE, FINE = 1024, 4096
"""Bins of the histogram of maxima; and at least of that of values, so many that hardly two fall into one."""
STEEPEST, FURTHEST = 1e30, 1e30
"""Bins a nat at most, where a row's values are all but equal; and nats, at whatever temperature: both stay finite."""
INFINITY = 0x7F800000
"""The bits of infinity, and its key: a whole number in the order of the floats, with what is no number above all."""
SIGNATURE = "boolean(uint64[::1], int64, int64, float64, float64, float32, float64[::1], int64[::1], int64[::1])"
DRAWERS, SHARE = 8, 4
"""Threads that draw at most, and rows for each at least: to wake a thread takes as long as drawing one or two."""

Function = Callable[..., Any]
compiled: Callable[[Function], Function] = numba.njit(nogil=True, error_model="numpy")
intrinsic: Callable[[Function], Function] = numba_intrinsic
"""Instructions that numba does not offer, above all on a whole line, where its vectoriser finds none: 180 us a row."""
BITS, FLOATS = ir.VectorType(ir.IntType(32), LINE), ir.VectorType(ir.FloatType(), LINE)
NO_FLOATS = ir.Constant(FLOATS, ir.Undefined)


def _each(number: int) -> Any:
    return ir.Constant(BITS, [number] * LINE)


@intrinsic
def _pointer(typing: Any, address: Any) -> Any:
    return types.voidptr(types.uint64), lambda _, to, __, given: to.inttoptr(given[0], cgutils.voidptr_t)


@intrinsic
def _largest(typing: Any, address: Any) -> Any:
    """The key of a line's largest value; the greatest of all keys where one is no number."""

    def code(context: Any, to: Any, signature: Any, given: Any) -> Any:
        bits = to.load(to.inttoptr(given[0], BITS.as_pointer()), align=4)
        size = to.and_(bits, _each(0x7FFFFFFF))
        keys = to.xor(bits, to.and_(to.ashr(bits, _each(31)), _each(0x7FFFFFFF)))
        keys = to.select(to.icmp_signed(">", size, _each(INFINITY)), _each(0x7FFFFFFF), keys)
        kind = ir.FunctionType(ir.IntType(32), [BITS])
        return to.call(cgutils.get_or_insert_function(to.module, kind, "llvm.vector.reduce.smax.v16i32"), [keys])

    return types.int32(types.uint64), code


@intrinsic
def _reaching(typing: Any, address: Any, floor: Any) -> Any:
    """A bit for each value of a line, the first the lowest: whether it is at least `floor`."""

    def code(context: Any, to: Any, signature: Any, given: Any) -> Any:
        values = to.load(to.inttoptr(given[0], FLOATS.as_pointer()), align=4)
        floor = to.insert_element(NO_FLOATS, given[1], ir.Constant(ir.IntType(32), 0))
        floors = to.shuffle_vector(floor, NO_FLOATS, _each(0))
        return to.zext(to.bitcast(to.fcmp_ordered(">=", values, floors), ir.IntType(LINE)), ir.IntType(64))

    return types.uint64(types.uint64, types.float32), code


@intrinsic
def _lowest_bit(typing: Any, mask: Any) -> Any:
    """The place of the lowest bit of a mask that has one."""
    return types.uint64(types.uint64), lambda _, to, __, given: to.cttz(given[0], ir.Constant(ir.IntType(1), 1))


@intrinsic
def _next(typing: Any, address: Any) -> Any:
    """The number there, which one more takes the place of, whoever else does the same."""
    number = ir.IntType(64)
    one, kind = ir.Constant(number, 1), number.as_pointer()
    return types.int64(types.uint64), lambda _, to, __, given: to.atomic_rmw(
        "add", to.inttoptr(given[0], kind), one, "monotonic"
    )


@compiled
def _bits(key: int) -> int:
    """From the key of a float to its bits, and back."""
    return key ^ ((key >> 31) & 0x7FFFFFFF)


@compiled
def _maxima(address: int, maxima: Any) -> Any:
    """Fills in the bits of each line's largest value; returns the keys of the largest and the smallest of them."""
    largest, smallest = np.int32(-(2**31)), np.int32(2**31 - 1)
    for line in range(maxima.size):
        key = _largest(address + np.uint64(4 * LINE * line))
        largest, smallest = max(largest, key), min(smallest, key)
        maxima[line] = _bits(key)
    return largest, smallest


@compiled
def _floor(maxima: Any, most: int, highest: float, low: float, lowest: float, counts: Any) -> Any:
    """A value that about `most` maxima reach, or a few more; `lowest` where fewer are above `low`."""
    counts[: COARSE + 1] = 0
    scale = np.float32(min(COARSE / (highest - low), STEEPEST))
    for value in maxima:
        counts[int(min((highest - value) * scale, np.float32(COARSE)))] += 1
    reached = 0
    for place in range(COARSE):
        reached += counts[place]
        if reached >= most:
            return max(lowest, highest - np.float32(place + 1) / scale)
    return lowest


@compiled
def _gather(address: int, row: Any, maxima: Any, floor: float, lines: Any, values: Any, tokens: Any) -> Any:
    """Fills in what reaches the floor and its tokens, ascending; returns how many. First without branches, since the
    processor cannot foresee which lines do, and with unsigned places, since numba looks whether others are negative."""
    found = np.uint64(0)
    for line in range(maxima.size):
        lines[found] = line
        found += np.uint64(maxima[line] >= floor)
    number = np.uint64(0)
    for place in range(found):
        start = np.uint64(LINE) * np.uint64(lines[place])
        mask = _reaching(address + np.uint64(4) * start, floor)
        while mask:
            token = start + _lowest_bit(mask)
            values[number], tokens[number] = row[token], token
            number += np.uint64(1)
            mask &= mask - np.uint64(1)
    return np.int64(number)


@compiled
def _order(values: Any, tokens: Any, highest: float, floor: float, ends: Any, ordered: Any, ids: Any) -> None:
    """Fills in the values, falling, and their tokens, the lower first where two are equal."""
    bins = max(FINE, values.size)
    scale = np.float32(min(bins / (highest - floor), STEEPEST))
    ends[: bins + 2] = 0
    for value in values:
        ends[int((highest - value) * scale) + 1] += 1
    fullest = 0
    for place in range(1, bins + 2):
        fullest = max(fullest, ends[place])
        ends[place] += ends[place - 1]
    for place in range(values.size):
        bin = int((highest - values[place]) * scale)
        ordered[ends[bin]], ids[ends[bin]] = values[place], tokens[place]
        ends[bin] += 1
    # Within bins: by insertion, and where one is full, as of values that are all but equal, over larger gaps first.
    gap = 1
    while 20 * gap < fullest:
        gap = 3 * gap + 1
    while gap:
        for place in range(gap, values.size):
            value, token, at = ordered[place], ids[place], place
            while at >= gap and (ordered[at - gap] < value or (ordered[at - gap] == value and ids[at - gap] > token)):
                ordered[at], ids[at] = ordered[at - gap], ids[at - gap]
                at -= gap
            if at < place:
                ordered[at], ids[at] = value, token
        gap //= 3


@compiled
def _sum(values: Any, highest: float, temperature: float, sums: Any) -> float:
    """Fills in the sums of the weights up to each value; returns the last."""
    total = 0.0
    for rank in range(values.size):
        total += math.exp((np.float64(values[rank]) - np.float64(highest)) / temperature)
        sums[rank] = total
    return total


def _draw_rows(
    rows: Any, size: int, most: int, top_p: float, heat: float, reach: float, chances: Any, drawn: Any, taken: Any
) -> bool:
    """Fills in a token for each of `rows`, addresses of `size` logits, but for those that another thread takes; the
    `most` best and those within `reach` nats count, at the temperature `heat`. False where the highest is no number."""
    lines = size // LINE
    bits, reached = np.empty(lines, np.int32), np.empty(lines, np.int32)
    maxima = bits.view(np.float32)
    values, tokens = np.empty(size, np.float32), np.empty(size, np.int32)
    ordered, ids = np.empty(size, np.float32), np.empty(size, np.int32)
    counts, sums = np.empty(max(FINE, size) + 2, np.int32), np.empty(most, np.float64)
    ends = np.empty(2, np.int32)
    edges = ends.view(np.float32)
    while True:
        place = _next(np.uint64(taken.ctypes.data))
        if place >= rows.size:
            return True
        row = numba.carray(_pointer(rows[place]), size, np.float32)
        largest, smallest = _maxima(rows[place], bits)
        if not -INFINITY - 1 < largest < INFINITY:
            return False
        ends[0], ends[1] = _bits(largest), _bits(smallest)
        highest = edges[0]
        lowest = highest - reach
        low, floor = max(edges[1], lowest), lowest
        if most < lines and low < highest:
            floor = _floor(maxima, most, highest, low, lowest, counts)
        number = _gather(rows[place], row, maxima, floor, reached, values, tokens)
        if number < most and floor > lowest:
            # The bins' edges are rounded.
            floor = lowest
            number = _gather(rows[place], row, maxima, floor, reached, values, tokens)
        _order(values[:number], tokens[:number], highest, floor, counts, ordered, ids)
        kept = min(number, most)
        total = _sum(ordered[:kept], highest, 1.0, sums)
        if top_p < 1:
            kept = np.int64(np.searchsorted(sums[:kept], top_p * total)) + 1
            total = sums[kept - 1]
        if heat != 1:
            total = _sum(ordered[:kept], highest, heat, sums)
        rank = np.int64(np.searchsorted(sums[:kept], chances[place] * total, "right"))
        drawn[place] = ids[min(rank, kept - 1)]


class CompiledDraw:
    """`sampling.draw` by compiled code, in up to `threads` at once: each takes the next row until none is left, so that
    none waits for one that began late or whose core is busy.

    Compiling takes seconds the first time on a machine; then the code comes from `folder`, if that can be written.
    Raises whatever numba raises where it cannot compile.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        numba.config.CACHE_DIR = numba.config.CACHE_DIR or str(folder)
        options = {"nogil": True, "error_model": "numpy"}
        try:
            self._kernel = numba.njit(SIGNATURE, cache=True, **options)(_draw_rows)
        except Exception:  # no folder, a full disk, or what lies there is damaged
            self._kernel = numba.njit(SIGNATURE, **options)(_draw_rows)
        self._threads = min(threads, DRAWERS)
        self._helpers = ThreadPoolExecutor(max(1, self._threads - 1), "draw")
        self([np.zeros(LINE, np.float32)], Sampling(), np.zeros(1))  # what cannot run fails now, and not amid a phase

    def __call__(
        self, rows: Sequence[npt.NDArray[Any]], sampling: Sampling, chances: npt.NDArray[np.float64]
    ) -> list[int]:
        # Compiled code reads by addresses, so that what does not fit together would be read beyond its end.
        fits = len(chances) == len(rows) and all(
            row.dtype == np.float32 and row.flags.carray and row.size == rows[0].size for row in rows
        )
        if sampling.temperature <= 0 or not fits:
            return draw(rows, sampling, chances)
        if rows[0].size % LINE:
            rows = [np.pad(row, (0, -row.size % LINE), constant_values=-np.inf) for row in rows]
        # A quarter of the time of row.ctypes.data, in which the other threads wait to begin.
        addresses = np.array([ctypes.addressof(ctypes.c_char.from_buffer(row.data)) for row in rows], dtype=np.uint64)
        tokens, size = np.empty(len(rows), dtype=np.int64), rows[0].size
        most = sampling.top_k if 0 < sampling.top_k < size else size
        reach = np.float32(min(NEGLIGIBLE * max(1.0, sampling.temperature), FURTHEST))
        how, taken = (sampling.top_p, sampling.temperature, reach), np.zeros(1, dtype=np.int64)
        work: tuple[Any, ...] = (addresses, size, most, *how, chances, tokens, taken)
        parts = [self._helpers.submit(self._kernel, *work) for _ in range(min(self._threads, len(rows) // SHARE) - 1)]
        if not all([self._kernel(*work), *(part.result() for part in parts if not part.cancel())]):
            finite(np.nan)
        return tokens.tolist()
