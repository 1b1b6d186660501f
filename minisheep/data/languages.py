"""Which language a run is in: tags as people write them, brought to one form.

The form is the primary subtag of BCP 47: two letters of ISO 639-1 where there are any, so that EN, en-US, en_GB and
english are all ``en``; three letters for some of the languages without. ``languages.csv`` has a line for each: its
code, its English name, and whatever else people write.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from importlib import resources

_LINES = resources.files("minisheep.data").joinpath("languages.csv").read_text(encoding="utf-8").splitlines()
_ROWS = [line.split(",") for line in _LINES if not line.startswith("#")]
NAMES = {code: name for code, name, *_ in _ROWS}
"""English names by code."""
BY_CHARACTERS = frozenset({"zh", "ja", "th", "lo", "km", "my", "ii"})
"""Languages without blanks between words, whose characters are counted in the place of words."""
_CODES = {said.casefold(): code for code, *names in _ROWS for said in names} | {code: code for code in NAMES}


def language_code(written: object) -> str:
    """The code of a language from its tag or a name.

    Scripts and regions are left out. Raises ValueError that names the nearest language for an unknown one.
    """
    whole = unicodedata.normalize("NFKC", str(written)).strip("\ufeff\u200b \t\n").casefold().replace("_", "-")
    primary = re.split("[-.@(]", re.sub(r"^([a-z]{2,3}) (?=[a-z]{2}$)", r"\1-", whole))[0].strip()
    # A name may hold a hyphen or a word before it, as in "simplified chinese"; the last word of "pt br" is no language.
    last = whole.split()[-1] if " " in whole else ""
    named = _CODES.get(last) if len(last) > 3 and last != "latin" else None
    code = _CODES.get(whole.replace("-", " ")) or _CODES.get(whole) or named or _CODES.get(primary)
    if code is not None:
        return code
    # What is as short as a code is near to nothing: any two letters have one in common.
    near = [*difflib.get_close_matches(whole, _CODES, 1), *difflib.get_close_matches(primary, _CODES, 1)]
    code = _CODES[near[0]] if near and (len(primary) > 3 or primary.startswith(_CODES[near[0]])) else ""
    hint = f"nearest: {code}, {NAMES[code]}" if code else "a code such as en, zh or pt-BR, or a name such as german"
    raise ValueError(f"is no language that minisheep knows ({hint})")
