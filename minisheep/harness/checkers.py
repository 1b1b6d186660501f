"""IFEval's verdicts: by the harness's code where its sentence tokenizer is installed, else by minisheep's own.

Both decide alike (a test compares them on IFEval's prompts); only the harness's needs NLTK's Punkt model, which it
would fetch when it is imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from minisheep.rules.verify.items import Check, Item
from minisheep.rules.verify.verdicts import loose, strict

OWN = "minisheep's checkers (the harness's need NLTK's punkt_tab, which is not installed)"
THEIRS = "the harness's checkers"


def no_downloads() -> None:
    """From now on NLTK fetches nothing in this process; the harness would have it do so while it is imported."""
    with contextlib.suppress(ImportError):
        import nltk

        nltk.download = lambda *_, **__: False


def punkt_is_here() -> bool:
    """Whether NLTK finds Punkt's tables."""
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return False
    return True


def choose(task: Any) -> str:
    """Put the checkers in place on the harness's task ``ifeval``, and say which."""
    if punkt_is_here():
        import langdetect  # type: ignore[import-untyped]

        # The detector draws; fixed, so that the same answer gets the same verdict.
        langdetect.DetectorFactory.seed = 0
        return THEIRS
    task.set_config("process_results", own)
    return OWN


def own(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The four scores of one answer, as the harness's own function names them."""
    checks = tuple(
        Check(kind, {name: value for name, value in given.items() if value is not None})
        for kind, given in zip(doc["instruction_id_list"], doc["kwargs"], strict=True)
    )
    item = Item(str(doc["key"]), doc["prompt"], checks)
    found: dict[str, Any] = {}
    for name, read in (("strict", strict), ("loose", loose)):
        verdicts = list(read(item, results[0]))
        found[f"prompt_level_{name}_acc"] = all(verdicts)
        found[f"inst_level_{name}_acc"] = verdicts
    return found
