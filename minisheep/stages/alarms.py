"""When a round's variety (`stages.collapse.watch`) has fallen so far that the user should know. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

BEYOND_CHANCE = 3.29
"""Normal deviate that a change must have, one in two thousand by chance: ten measures are looked at after every round
of many healthy runs. With the usual 1.96 every third look would be an alarm for nothing."""
LESS_VARIED = 0.2
"""Fall of distinct pairs of words, as a share of the first round's. An aligned model loses some; a fifth is much."""
MORE_ALIKE = 0.2
"""Rise of the share that one opening, or one topic, has or might as well have (`diversity.crowding`)."""
NEAR_DUPLICATES, MORE_DUPLICATES = 0.3, 0.15
"""Share of new instructions that are too near to earlier ones, and its rise; some of that comes by itself, since there
are ever more earlier ones."""
MORE_COPIES = 0.1
"""Rise of the share of kept answers that are copies of another."""
SEEN_BEFORE = 0.3
"""Share of phrases of four words that earlier rounds' answers hold. In healthy rounds it is a few in a hundred."""
SHORTER, LONGER = 1 / 3, 0.5
"""Change of an answer's typical length, as a share of the first round's."""
FEWER_END = 0.2
"""Fall of the share of answers that end by themselves."""

SAID_BACK = 0.1
"""Share of the verifiable instructions that are answered by saying them back, if it has risen beyond chance."""

RAMBLING = 0.5
"""Share of a first round's answers that are cut off at the limit."""

_WIDEN = "start a new run with a higher --generate-temperature or more varied --seeds"

Metrics = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Alarm:
    name: str
    text: str
    """One sentence: what was seen, and what to do."""


def alarms(rounds: Mapping[int, Metrics]) -> list[Alarm]:
    """What is wrong with the newest round's data beside the first one's; nothing for a single round.

    rounds: by number, what `stages.collapse.watch` found.
    """
    if len(rounds) < 2:
        return []
    first, last = min(rounds), max(rounds)
    before, now = rounds[first], rounds[last]
    return [
        *_of_instructions(before["instructions"], now["instructions"], first, last),
        *_of_answers(before["answers"], now["answers"], first, last),
    ]


def rambling(answers: int, cut: int, limit: int) -> Alarm | None:
    """Whether a base model that was shown no answers (`Settings.answer_shots`) knows where one ends.

    cut: how many of its answers ran into the limit of so many tokens.
    """
    if cut <= RAMBLING * answers:
        return None
    return Alarm(
        "rambling",
        f"{cut} of {answers} answers ran into the limit of {limit} tokens: nothing has shown this base model where an"
        " answer ends, and from such answers it learns to ramble and to say instructions back. Better stop here, and"
        " begin a new run with --answer-shots 3.",
    )


def echo(round: int, model: Metrics) -> Alarm | None:
    """Whether a round's model learned to say instructions back. `model`: what `stages.verifiable.metrics` found."""
    share = model.get("verifiable", {}).get("copied")
    change = model.get("verifiable_change", {}).get("copied")
    if not share or not change or change["low"] <= 0 or share["value"] <= SAID_BACK:
        return None
    return Alarm(
        "echo",
        f"Round {round}'s model answers {share['value']:.0%} of the instructions with constraints by saying them back,"
        f" the base {share['value'] - change['value']:.0%}, and such an answer keeps many without understanding any:"
        " go by those kept in its own words; with a base model, --answer-shots 3 in a new run means fewer echoes.",
    )


def _of_instructions(before: Metrics, now: Metrics, first: int, last: int) -> Iterator[Alarm]:
    if found := _fallen(before["distinct"], now["distinct"]):
        yield Alarm(
            "instructions_less_varied",
            f"Round {last}'s instructions are less varied ({found}, in round {first} {found.before}): {_WIDEN}.",
        )
    was, is_ = before["openings"], now["openings"]
    if _risen(was["crowding"], is_["crowding"], MORE_ALIKE):
        yield Alarm(
            "openings",
            f'{is_["share"]:.0%} of round {last}\'s instructions begin with "{is_["commonest"]}", and at most'
            f" {was['share']:.0%} of round {first}'s began alike: {_WIDEN}.",
        )
    was, is_ = before["topics"], now["topics"]
    if was and is_ and _risen(was["crowding"], is_["crowding"], MORE_ALIKE):
        yield Alarm(
            "topics",
            f"{is_['largest']:.0%} of round {last}'s instructions are on one topic, where none had more than"
            f" {was['largest']:.0%} in round {first}: {_WIDEN}.",
        )
    was, is_ = before["near_duplicates"], now["near_duplicates"]
    if _risen(was, is_, MORE_DUPLICATES) and is_["value"] > NEAR_DUPLICATES:
        yield Alarm(
            "near_duplicates",
            f"{is_['value']:.0%} of what round {last} wrote was too near to earlier instructions, {was['value']:.0%} in"
            f" round {first}: the model has little new to ask, so stop here, or {_WIDEN}.",
        )


def _of_answers(before: Metrics, now: Metrics, first: int, last: int) -> Iterator[Alarm]:
    back = f"round {first}'s model may be the better one, and a higher --answer-temperature in a new run may help"
    if found := _fallen(before["distinct"], now["distinct"]):
        yield Alarm(
            "answers_less_varied",
            f"Round {last}'s kept answers are less varied ({found}, in round {first} {found.before}): {back}.",
        )
    was, is_ = before["duplicates"], now["duplicates"]
    if _risen(was, is_, MORE_COPIES):
        yield Alarm(
            "copies",
            f"{is_['value']:.0%} of round {last}'s kept answers say what another says word for word,"
            f" {was['value']:.0%} in round {first}: {back}.",
        )
    seen = now["seen_before"]
    if seen and seen["error"] is not None and seen["value"] > SEEN_BEFORE:
        yield Alarm(
            "seen_before",
            f"{seen['value']:.0%} of the phrases in round {last}'s kept answers stand in earlier rounds' answers: the"
            f" model learns what it said before, so stop here, or {_WIDEN}.",
        )
    yield from _of_lengths(before["words"], now["words"], first, last)
    was, is_ = before["ended"], now["ended"]
    if _risen(is_, was, FEWER_END):
        yield Alarm(
            "fewer_end",
            f"{is_['value']:.0%} of round {last}'s answers end by themselves, {was['value']:.0%} in round {first}:"
            f" round {first}'s model may be the better one, and more --answer-max-tokens in a new run may help.",
        )


def _of_lengths(before: Metrics | None, now: Metrics | None, first: int, last: int) -> Iterator[Alarm]:
    for name, shorter, longer, share, kind in (
        ("shorter", now, before, SHORTER, "short"),
        ("longer", before, now, LONGER, "long"),
    ):
        if before and now and _risen(shorter, longer, share * before["value"]):
            yield Alarm(
                name,
                f"Round {last}'s kept answers typically have {now['value']:.0f} words, {before['value']:.0f} in round"
                f" {first}: look whether the judge prefers {kind} ones, and start a new run with another --judge if it"
                " does.",
            )


class _Fall(NamedTuple):
    """Distinct pairs of words at a number of words; in words, that of the newest round."""

    size: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.now} of the pairs in {self.size} words are different"


def _fallen(before: Metrics, now: Metrics) -> _Fall | None:
    """Whether distinct pairs fell at the largest number of words for which both rounds have an error."""
    common = [size for size in now if size in before and None not in (before[size]["error"], now[size]["error"])]
    size = max(common, key=int, default=None)
    if size is None or not _risen(now[size], before[size], LESS_VARIED * before[size]["value"]):
        return None
    return _Fall(size, f"{before[size]['value']:.0%}", f"{now[size]['value']:.0%}")


def _risen(low: Metrics | None, high: Metrics | None, by: float) -> bool:
    """Whether `high` is above `low` by more than `by` and by more than chance explains.

    False where one is not known or has no error: then nothing can be told from chance.
    """
    if low is None or high is None or low["error"] is None or high["error"] is None:
        return False
    rise = high["value"] - low["value"]
    squares = [low["error"] ** 2, high["error"] ** 2]
    if not any(squares):
        return bool(rise > by)
    # Welch's degrees of freedom, and the first term by which Student's t is wider than the normal distribution.
    freedom = sum(squares) ** 2 / sum(s**2 / (e["groups"] - 1) for s, e in zip(squares, (low, high), strict=True))
    wider = 1 + (BEYOND_CHANCE**2 + 1) / (4 * freedom)
    return bool(rise > by and rise > BEYOND_CHANCE * wider * math.sqrt(sum(squares)))
