"""Sentences, words and languages of a text as IFEval's tools see them, without their downloads. Pure.

IFEval counts sentences with NLTK's Punkt tokenizer for English (Kiss and Strunk 2006). The same rules decide here where
a sentence could end, and what kind of word stands before and after. Punkt then looks words up in tables that were
trained on newspapers and must be downloaded. Two short lists stand in their place: abbreviations that those tables
know (after "e.g." and "etc." Punkt sees an end, so does this), and words that mostly begin a sentence when they are
capitalised. So counts can differ after rare abbreviations, after initials, and after an ellipsis before a rare word.

IFEval counts words in capitals among the tokens of ``nltk.word_tokenize``, which follows the Penn Treebank: a
contraction is two words. Words are split here as far as that changes which of them are in capitals; punctuation without
letters may stay on a word.

IFEval is English. In other scripts its tools see one word where there are many, or many where there is one, and no end
of a sentence. There sentences end with 。！？ or their own marks, and words are those of `rules.text_words`; texts
without these are read as before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

from minisheep.errors import UsageError
from minisheep.rules.text_words import END, GREEK_QUESTION, MARKS, START, STOPS, word

_ABBREVIATIONS = """
mr mrs ms dr prof st jr sr gen col lt maj sen rep messrs adm jan feb aug sep sept oct nov dec tues wed fri inc
ltd co corp bros cie vs ave ft mg ph.d m.b.a u.s u.k u.n u.s.a u.s.s.r a.m p.m a.d d.c n.c n.h n.j n.y l.a r.i
s.a w.va ala ariz calif colo conn fla ga ill kan ky mich minn nev okla ore pa tenn va vt wash wis c d e f g h k
l m n p r s t v w
"""
_STARTERS = """
above according almost already although always among anyone anyway ask begin beyond both but call certainly
check choose consider despite does drink either else enjoy even eventually everywhere except finally following
furthermore he hence her here him himself hold however i if imagine in indeed inside instead into it learn many
meanwhile mix moreover most neither nevertheless nonetheless nor nothing otherwise pick play please remember
same separately similarly since so some someone sometimes soon still such suddenly surely the them there
therefore these they think this though through thus together try turn under unfortunately unless wait walk were
when whenever wherever whether which while within without yes yesterday yet your
"""
_FAMILIAR = """
a about add after again all also an and another any are as at away be because been before below best big buy by
can cannot come could create do each eat every everyone everything few find first food for from get give go good
had has have help his how is its just keep last later let like look make may maybe might more much must my never
new next no not now of often on once one only open or other our out over people perhaps rather read see she
should small something start stop take than that their then those to today too two until up use very was water
we well what where who whose why will with would write you
"""

ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
"""Without their last full stop. Letters alone are those after which Punkt never ends a sentence."""

STARTERS = frozenset(_STARTERS.split())
FAMILIAR = STARTERS - {"i"} | frozenset(_FAMILIAR.split())
"""Words that are written in lower case too, so that a capital after an initial begins a sentence and is no name."""

_NOT_WORD = r"[)\";}\]*:@'({\[‘’“”«»?!]"
_RUN = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)"
_CANDIDATE = re.compile(rf"[.?!](?=(?P<after>{_NOT_WORD}|\s+(?P<next>\S+)))")
_TOKEN = re.compile(
    rf"{_RUN}|(?=[^(\"`{{\[:;&#*@)}}\]\-,])\S+?(?=\s|$|{_NOT_WORD}|{_RUN}|,(?=$|\s|{_NOT_WORD}|{_RUN}))|\S"
)
_CLOSING = re.compile(r"[\"')\]}‘’“”«»]+?(?:\s+|(?=--)|$)", re.MULTILINE)
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*\.?$")
_INITIAL = re.compile(r"[^\W\d]\.$")
_ELLIPSIS = re.compile(r"\.\.+$")
_FOREIGN_END = re.compile(rf'(?:[。！？｡{STOPS}]+[.!?]*|{GREEK_QUESTION})[”’」』）》»"]*')


def count_sentences(text: str) -> int:
    """Sentences in `text`; 0 for a blank one. Closing quotes and brackets belong to the sentence that they follow."""
    return len(sentences(text))


def sentences(text: str) -> list[str]:
    """The sentences of `text` in their order, blanks around them left out."""
    ends = [0, *(match.end() for match in _FOREIGN_END.finditer(text))]
    parts = [text[start:end] for start, end in zip(ends, [*ends[1:], len(text)], strict=True)]
    return [sentence for part in parts for sentence in _sentences(part)]


def count_words(text: str) -> int:
    r"""Runs of ``\w``: "don't" and "well-known" are two each. In a script without blanks, characters."""
    return len(word(letters="_").findall(text))


def as_whole_word(said: str) -> str:
    r"""An expression between two ``\b``, which next to a script without blanks hold as well."""
    return (START if re.match(r"\w", said) else r"\b") + said + (END if re.search(rf"[\w{MARKS}]\Z", said) else r"\b")


def _sentences(text: str) -> list[str]:
    spans = list(_spans(text))
    found = []
    taken = 0
    for place, (start, end) in enumerate(spans):
        start += taken
        following = spans[place + 1] if place + 1 < len(spans) else None
        closing = _CLOSING.match(text[slice(*following)]) if following else None
        taken = closing.end() if closing else 0
        if following and closing:
            end = following[0] + len(closing[0].rstrip())
        if start < end:
            found.append(text[start:end])
    return found


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Where sentences begin and end, before closing quotes are moved."""
    begin = 0
    for match, context in _candidates(text):
        if _breaks(context):
            yield begin, match.end()
            begin = match.start("next") if match["next"] else match.end()
    yield begin, len(text.rstrip())


def _candidates(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each place where a sentence could end, with the word before it and the token after it.

    Of several marks after one word ("really?!") only the last is one.
    """
    waiting: tuple[re.Match[str], int, int] | None = None
    start = end = 0
    for match in _CANDIDATE.finditer(text):
        blank = max((text.rfind(c, end, match.start()) - end for c in " \t\n\r\v\f"), default=0)
        begin = end + blank + 1 if blank > 0 else start
        if waiting is not None and end <= begin:
            yield waiting[0], text[start:end] + waiting[0][0] + waiting[0]["after"]
        start, end = begin, match.start()
        waiting = match, start, end
    if waiting is not None:
        yield waiting[0], text[start:end] + waiting[0][0] + waiting[0]["after"]


def _breaks(context: str) -> bool:
    """Whether a sentence ends inside `context`, with something after the end."""
    tokens = [token for line in context.split("\n") for token in _TOKEN.findall(line)]
    return any(_ends(token, following) for token, following in pairwise(tokens))


def _ends(token: str, following: str) -> bool:
    """Whether a sentence ends with `token` (Kiss and Strunk, sections 3 and 4)."""
    if token in (".", "?", "!"):
        return True
    if _ELLIPSIS.match(token):
        return _starts(following) is True
    if not token.endswith("."):
        return False
    word = token[:-1].lower()
    abbreviation = word in ABBREVIATIONS or word.rpartition("-")[2] in ABBREVIATIONS
    initial = _INITIAL.match(token) is not None
    if abbreviation and not initial:
        return _starts(following) is True
    if initial or _NUMBER.match(token):
        if _starts(following) is False:
            return False
        if initial and following[0].isupper() and following.lower().rstrip(".") not in FAMILIAR:
            return False
    return not abbreviation


def _starts(token: str) -> bool | None:
    """Whether `token` is a word that begins a sentence; None where that cannot be told."""
    if token in (";", ":", ",", ".", "!", "?") or token[0].islower():
        return False
    if token[0].isupper() and token.lower().rstrip(".") in STARTERS:
        return True
    return None


_ALONE = (
    # Marks that stand alone wherever they are; commas and colons not before a digit ("1,000", "7:30").
    re.compile("[;@#$%&?!*\\[\\](){}<>«»“”‘’„`\"\u2012-\u2015]|''|--|\\.{2,}|[:,](?!\\d)"),
    # An apostrophe that opens a word, unless the rest is the end of a contraction.
    re.compile(r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", re.IGNORECASE),
)
_FULL_STOP = re.compile("(?<=[^.])\\.(?=[\\])}>\"'»”’ ]*\\s*$)")
"""The one that ends a sentence: after it, \"THEY'LL.\" is two words as \"THEY'LL\" is."""
_ENDINGS = (re.compile("(?<=[^' ])(?='[sSmMdD]? )"), re.compile("(?<=[^' ])(?=(?:'ll|'LL|'re|'RE|'ve|'VE|n't|N'T) )"))
_COMPOUNDS = tuple(
    re.compile(rf"\b({first})({second})\b", re.IGNORECASE)
    for first, second in (
        ("can", "not"),
        ("d", "'ye"),
        ("gim", "me"),
        ("gon", "na"),
        ("got", "ta"),
        ("lem", "me"),
        ("more", "'n"),
        ("wan", r"na(?=\s)"),
    )
)


def words(text: str) -> list[str]:
    """The words of `text` with what is left of the punctuation around them; bare marks are mostly left out."""
    return [word for sentence in sentences(text) for word in _words(sentence)]


def _words(sentence: str) -> list[str]:
    for pattern in (*_ALONE, _FULL_STOP):
        sentence = pattern.sub(" ", sentence)
    sentence = " ".join(["", *sentence.split(), ""])
    for pattern in _ENDINGS:
        sentence = pattern.sub(" ", sentence)
    for pattern in _COMPOUNDS:
        sentence = pattern.sub(r" \1 \2 ", sentence)
    return sentence.split()


@cache
def _detectors() -> Any:
    """langdetect, by whose results IFEval is defined; not its global factory, which draws without a seed."""
    try:
        from langdetect import PROFILES_DIRECTORY, DetectorFactory  # type: ignore[import-untyped]
    except ImportError:
        raise UsageError(
            "A constraint on the language of an answer needs the package langdetect, which is not installed.",
            "`minisheep doctor` names the command that installs what is missing.",
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
