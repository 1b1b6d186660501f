"""Settings as YAML, one a line, that readers of YAML 1.1 and 1.2 take the same way. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def to_yaml(settings: Mapping[str, Any]) -> str:
    """`settings` (plain words as keys; values of JSON's kinds) as a document.

    JSON's forms are YAML's, but for numbers such as 5e-05, which YAML 1.1 takes for a text, and for characters beyond
    16 bits, which it escapes whole.
    """
    return "".join(f"{key}: {_value(value)}\n" for key, value in settings.items())


def _value(value: Any) -> str:
    if isinstance(value, float):
        mantissa, mark, exponent = repr(value).partition("e")
        return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}{mark}{exponent}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, str):
        return f'"{"".join(map(_character, value))}"'
    return json.dumps(value)


def _character(character: str) -> str:
    plain = " " <= character <= "~" and character not in '"\\'
    return character if plain else f"\\U{ord(character):08x}"
