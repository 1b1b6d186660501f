"""In which number format a frozen base is held and computed. Pure and without torch, so that a plan can ask it."""

from __future__ import annotations

from minisheep.errors import ConfigError


def settle(load_in: str, *, cuda: bool, fast_bf16: bool) -> tuple[str, bool]:
    """What the setting `load_in` becomes (``4bit``, ``bf16`` or ``fp32``), and whether training computes in float32.

    Where there is no fast bfloat16, it does, and holds a base that is not 4-bit in it too. Raises `errors.ConfigError`
    for an unknown value.
    """
    if load_in not in ("auto", "4bit", "bf16", "fp32"):
        raise ConfigError(f"load_in cannot be {load_in!r}.", "Use auto, 4bit, bf16 or fp32.")
    if load_in == "auto":
        load_in = "4bit" if cuda else "bf16" if fast_bf16 else "fp32"
    if load_in == "bf16" and not fast_bf16:
        load_in = "fp32"
    return load_in, load_in == "fp32" or not fast_bf16
