"""minisheep: a language model aligns itself from scratch (I-SHEEP) on one consumer GPU, or none."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minisheep.api import Run, align, load_run
    from minisheep.run.reading import Round

__version__ = "0.1.0"
__all__ = ["Round", "Run", "__version__", "align", "load_run"]


def __getattr__(name: str) -> Any:
    """Names of the API, imported when asked for, so that ``minisheep --help`` does not wait for them."""
    if name in __all__:
        return getattr(importlib.import_module("minisheep.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
