"""Which language a text is in, by langdetect: the detector whose answers IFEval is defined by."""

from __future__ import annotations

from functools import cache
from typing import Any

from minisheep.errors import UsageError


@cache
def _detectors() -> Any:
    """A factory of our own: the library's global one draws at random unless the whole process sets its seed."""
    try:
        from langdetect import PROFILES_DIRECTORY, DetectorFactory  # type: ignore[import-untyped]
    except ImportError:
        raise UsageError(
            "A constraint on the language of an answer needs the package langdetect, which is not installed.",
            "pip install langdetect",
        ) from None
    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.set_seed(0)
    return factory


def is_language(text: str, language: str) -> bool:
    """Whether `text` is in `language`; True for a text that shows none (digits alone), as IFEval decides.

    Raises `errors.UsageError` without langdetect.
    """
    factory = _detectors()
    from langdetect import LangDetectException

    detector = factory.create()
    try:
        detector.append(text)
        return bool(detector.detect() == language)
    except LangDetectException:
        return True
