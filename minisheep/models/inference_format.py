"""Which number format a CPU decodes a model fastest in, of those that lose next to nothing of it.

Only for files whose own format has no fast kernel: those are copied in any case. Q8_0 is a good choice everywhere; a
processor that multiplies bfloat16 may be faster with that as long as the model is small, since batched decoding is then
bound by arithmetic and not by reading weights. No rule foretells which, so it is tried once on each machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from minisheep.engines import cpu
from minisheep.errors import MinisheepError
from minisheep.machine.files import write_json

DEFAULT = "q8_0"
BF16_PARAMETERS = 1_000_000_000
"""Above this, reading twice the bytes costs more than any arithmetic saves."""
TRIES = 2
"""Of each format, in turns; the best counts, since whatever else the machine does can only make a try slower."""
WORTH = 1.05
"""A larger format must be faster by this factor: it takes more memory and disk."""


def candidates(flags: frozenset[str], parameters: int) -> tuple[str, ...]:
    """The formats to try on a CPU with these flags (`engines.cpu`), the default first."""
    if parameters <= BF16_PARAMETERS and cpu.multiplies_bfloat16(flags):
        return (DEFAULT, "bf16")
    return (DEFAULT,)


def fastest(rates: Mapping[str, float]) -> str:
    """The format to use, by tokens a second: the default unless another is clearly faster."""
    best = max(rates, key=lambda name: rates[name])
    return best if rates[best] > WORTH * rates.get(DEFAULT, 0.0) else DEFAULT


def choose(
    formats: tuple[str, ...],
    make: Callable[[str], Path],
    rate: Callable[[Path], float],
    record: Path,
    machine: str,
    tell: Callable[[str], None],
) -> tuple[str, dict[str, float]]:
    """The format to use and the measured tokens a second of each, from `record` if that was made on this `machine`.

    `make` gives the copy in a format, `rate` measures it, in turns, so that a busy minute does not decide; `tell` hears
    what came of it. Copies that lose are deleted.
    """
    if len(formats) == 1:
        return formats[0], {}
    rates = _read(record, machine)
    if set(rates) == set(formats):
        return fastest(rates), rates
    copies = {name: make(name) for name in formats}
    rates = dict.fromkeys(formats, 0.0)
    try:
        for _ in range(TRIES):
            for name, copy in copies.items():
                rates[name] = max(rates[name], rate(copy))
    except MinisheepError as error:
        tell(f"The formats could not be compared on this machine ({error.message}): {DEFAULT.upper()} is used.")
        return DEFAULT, {}
    chosen = fastest(rates)
    told = ", ".join(f"{name.upper()} {rate:.0f}" for name, rate in rates.items())
    tell(f"Tokens/s of a short try on this machine: {told}; {chosen.upper()} is used from now on.")
    write_json(record, {"machine": machine, "tokens_per_second": {n: round(r, 1) for n, r in rates.items()}})
    for name, copy in copies.items():
        if name != chosen:
            copy.unlink(missing_ok=True)
    return chosen, rates


def _read(record: Path, machine: str) -> dict[str, float]:
    try:
        data = json.loads(record.read_text(encoding="utf-8"))
        rates = {str(name): float(rate) for name, rate in data["tokens_per_second"].items()}
        return rates if data["machine"] == machine else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
