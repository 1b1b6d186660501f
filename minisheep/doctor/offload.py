"""A llama.cpp without CUDA on a machine with a card: said before a run, not found out after hours of it."""

from __future__ import annotations

from collections.abc import Sequence

from minisheep.screen.nvml import Nvml


def card_without_offload(gpu_layers: int) -> str:
    """One line for a run that is about to leave this machine's card idle; empty where it will not, or is meant to.

    `gpu_layers` is the setting: 0 asks for the processor. Loads llama.cpp, so only workers call it.
    """
    if gpu_layers == 0:
        return ""
    import llama_cpp

    nvml = Nvml()
    try:
        cards = [str(told["name"]) for told in nvml.identities()]
    finally:
        nvml.close()
    return told_of(cards, offload=bool(llama_cpp.llama_supports_gpu_offload()))


def told_of(cards: Sequence[str], *, offload: bool) -> str:
    """The line itself. Pure."""
    if offload or not cards:
        return ""
    return (
        f"{cards[0]} is here, but this llama.cpp was built for processors only, so writing and judging will leave the"
        " card idle and take many times as long. `minisheep doctor` has the command that builds it for the card;"
        " --gpu-layers 0 says that you mean it."
    )
