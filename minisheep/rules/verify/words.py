"""Splits a text into words where NLTK's word tokenizer does, as far as that changes which words are in capitals.

IFEval counts words in capitals among the tokens of ``nltk.word_tokenize``, which follows the Penn Treebank: a
contraction is two words. Where it only parts punctuation without letters from a word, this does not.
"""

from __future__ import annotations

import re

from minisheep.rules.verify.sentences import sentences

_APART = (
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
    for pattern in (*_APART, _FULL_STOP):
        sentence = pattern.sub(" ", sentence)
    sentence = " ".join(["", *sentence.split(), ""])
    for pattern in _ENDINGS:
        sentence = pattern.sub(" ", sentence)
    for pattern in _COMPOUNDS:
        sentence = pattern.sub(r" \1 \2 ", sentence)
    return sentence.split()
