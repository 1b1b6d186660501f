"""What a pair shows without being graded: how likely its tokens are, and how its words lie. Pure.

No single number tells a right answer from every kind of wrong one (see `rules.spoil`): likelihood that the answer
belongs to the instruction loves an echo and does not see that half is missing. Together, weighed by `rules.blend`,
they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from statistics import fmean

from minisheep.rules.prompts import user_text
from minisheep.rules.responses import repeated_share
from minisheep.rules.similarity import tokens

LOWEST_SHARE = 0.1
"""The share of an answer's tokens, at least one, that `weakest` looks at: a wrong fact is few tokens."""
REPEATED_NGRAM = 3


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Natural log-probabilities of a pair's tokens, one a token; empty where they were not asked for."""

    given: tuple[float, ...] = ()
    """The answer after the instruction, then its ending (`rules.prompts.Frame.ending`)."""
    alone: tuple[float, ...] = ()
    """The answer after nothing."""
    back: tuple[float, ...] = ()
    """The instruction (with its input) after the answer."""
    back_alone: tuple[float, ...] = ()
    """The instruction after nothing."""

    @property
    def answer(self) -> tuple[float, ...]:
        """`given` without the ending."""
        return self.given[: len(self.alone)]

    @property
    def ending(self) -> float:
        """Of ending after the answer; 0 where the frame has nothing that ends one."""
        return sum(self.given[len(self.alone) :])

    @property
    def forward(self) -> float | None:
        """Pointwise mutual information per token of the answer (nats); None for an answer without tokens."""
        return _gain(self.answer, self.alone)

    @property
    def backward(self) -> float | None:
        """The same per token of the instruction: what the answer tells about it."""
        return _gain(self.back, self.back_alone)


def evidence(instruction: str, input: str, answer: str, found: Likelihoods) -> dict[str, float] | None:
    """Everything that a blend weighs, by name; None for a pair without tokens.

    forward, backward  information, less the share of the answer that is one run of the instruction: an echo is none
    ending             log-probability of ending after the answer: low where it breaks off
    weakest            of the answer's least likely tokens: low where a fact is wrong or words are out of order
    later              how much likelier the answer's second half is than its first, seen alone: high in a loop
    shared, run        share of its words that the instruction holds, and of the longest piece of it that does
    repeated, variety  share of n-grams that stood there before, and of words that differ
    """
    forward, backward = found.forward, found.backward
    if forward is None or backward is None:
        return None
    words, asked = tokens(answer), tokens(user_text(instruction, input))
    run = longest_run(words, asked) / max(1, len(words))
    return {
        "forward": forward * (1 - run),
        "backward": backward * (1 - run),
        "ending": found.ending,
        "weakest": weakest(found.answer),
        "later": later(found.alone),
        "shared": shared_share(words, asked),
        "run": run,
        "repeated": repeated_share(words, REPEATED_NGRAM),
        "variety": len(set(words)) / max(1, len(words)),
    }


def later(logprobs: Sequence[float]) -> float:
    """Mean of the second half of some log-probabilities less that of the first; 0 for a single one."""
    half = len(logprobs) // 2
    return fmean(logprobs[half:]) - fmean(logprobs[:half]) if half else 0.0


def weakest(logprobs: Sequence[float]) -> float:
    """Mean of the lowest `LOWEST_SHARE` of some log-probabilities."""
    return fmean(sorted(logprobs)[: max(1, int(len(logprobs) * LOWEST_SHARE))])


def shared_share(words: Sequence[str], asked: Sequence[str]) -> float:
    """Share of `words` that stand in `asked`, 0 .. 1; 0 for no words."""
    known = set(asked)
    return sum(word in known for word in words) / len(words) if words else 0.0


def longest_run(words: Sequence[str], asked: Sequence[str]) -> int:
    """Length of the longest run of `words` that stands in `asked` in one piece."""
    return SequenceMatcher(None, words, asked, autojunk=False).find_longest_match().size


def _gain(given: Sequence[float], alone: Sequence[float]) -> float | None:
    return fmean(given) - fmean(alone) if given and alone else None
