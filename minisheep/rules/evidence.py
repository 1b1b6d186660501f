"""What a pair shows without a grade, and a judge made of these signs. Pure.

How likely the tokens of a pair are, and how its words lie: no single number tells a right answer from every kind of
wrong one (see `rules.corrupt`). Likelihood that the answer belongs to the instruction loves an echo and does not see
that half is missing. Together the numbers do: a `Blend`, a logistic regression kept as plain numbers, weighs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from statistics import fmean
from typing import Any, Self

from minisheep.rules.heuristics import repeated_share
from minisheep.rules.identity import six_digits
from minisheep.rules.prompts import user_text
from minisheep.rules.similarity import tokens

LOWEST_SHARE = 0.1
"""The share of an answer's tokens, at least one, that `weakest` looks at: a wrong fact is few tokens."""
REPEATED_NGRAM = 3


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Natural log-probabilities of a pair's tokens, one a token; empty where none were computed."""

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


STRENGTH = 0.5
"""scikit-learn's C. Below 1, since it weighs a dozen signs on some hundred answers."""


@dataclass(frozen=True, slots=True)
class Blend:
    """Standardised signs, a weight each; `score` gives the log-odds that an answer is right."""

    names: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float

    def score(self, evidence: Mapping[str, float]) -> float:
        """Log-odds, 0 for even odds under the balance of the fit. KeyError for evidence that lacks a sign."""
        signs = zip(self.names, self.means, self.scales, self.weights, strict=True)
        return self.intercept + sum(weight * (evidence[name] - mean) / scale for name, mean, scale, weight in signs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "intercept": self.intercept,
            "signs": {
                name: {"mean": mean, "scale": scale, "weight": weight}
                for name, mean, scale, weight in zip(self.names, self.means, self.scales, self.weights, strict=True)
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `to_dict` wrote. KeyError where something is missing."""
        signs = data["signs"]
        means, scales, weights = (tuple(float(s[part]) for s in signs.values()) for part in ("mean", "scale", "weight"))
        return cls(tuple(signs), means, scales, weights, float(data["intercept"]))


def fit(right: Sequence[Mapping[str, float]], spoiled: Mapping[str, Sequence[Mapping[str, float]]]) -> Blend:
    """The weights that tell `right` evidence from `spoiled` evidence (by kind).

    Right and spoiled have the same weight as a whole, and so have the kinds: a kind that fits few answers would hardly
    count otherwise. ValueError where one side is empty.
    """
    from sklearn.linear_model import LogisticRegression

    kinds = [rows for rows in spoiled.values() if rows]
    if not right or not kinds:
        raise ValueError("a blend is fitted on right and on spoiled answers")
    names = tuple(right[0])
    rows = [*right, *(row for some in kinds for row in some)]
    columns = [[row[name] for row in rows] for name in names]
    means = [sum(column) / len(column) for column in columns]
    scales = [_spread(column, mean) for column, mean in zip(columns, means, strict=True)]
    table = [
        [(row[name] - mean) / scale for name, mean, scale in zip(names, means, scales, strict=True)] for row in rows
    ]
    share = len(rows) / 2
    counts = [share / len(right)] * len(right)
    counts += [share / len(kinds) / len(some) for some in kinds for _ in some]
    labels = [1] * len(right) + [0] * (len(rows) - len(right))
    model = LogisticRegression(C=STRENGTH, max_iter=1000).fit(table, labels, sample_weight=counts)
    return Blend(
        names,
        tuple(map(six_digits, means)),
        tuple(map(six_digits, scales)),
        tuple(six_digits(weight) for weight in model.coef_[0]),
        six_digits(model.intercept_[0]),
    )


def _spread(values: Sequence[float], mean: float) -> float:
    """Standard deviation; 1 where all values are the same, so that the sign weighs nothing instead of failing."""
    spread = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    return spread if spread > 1e-9 else 1.0
