"""What stands in for the package ``evaluate``, by which the harness fetches metrics as programs from the hub.

The harness uses its function ``load`` alone. The package itself is never imported: it would load torch and
transformers into the process that runs llama.cpp, and take seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from minisheep.errors import UsageError
from minisheep.harness import squad
from minisheep.harness.code import CodeEval

NAME = "evaluate"


class _Squad:
    compute = staticmethod(squad.compute)


@contextmanager
def own_metrics(*, allow_code: bool) -> Iterator[None]:
    """Metrics of minisheep's own under the names that the harness asks for; any other raises `errors.UsageError`."""
    ours = {"squad_v2": _Squad(), "code_eval": CodeEval(allowed=allow_code)}

    def load(path: str, *_: Any, **__: Any) -> Any:
        if path in ours:
            return ours[path]
        raise UsageError(
            f"The metric {path!r} is a program from the hub, and minisheep runs none of those.", "Choose another task."
        )

    module = ModuleType(NAME)
    module.__spec__ = ModuleSpec(NAME, None)
    module.__dict__["load"] = load
    before = sys.modules.get(NAME)
    sys.modules[NAME] = module
    try:
        yield
    finally:
        if before is None:
            del sys.modules[NAME]
        else:
            sys.modules[NAME] = before
