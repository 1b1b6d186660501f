"""Asks an engine how likely pairs are, each text once however many pairs hold it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minisheep.engines.base import Engine, LoglikRequest, Prompt, Segment
from minisheep.rules.evidence import Likelihoods
from minisheep.rules.prompts import Frame, answer_prompt, backward_prompt, user_text
from minisheep.stages.asked import Asked

FORWARD, BACKWARD = ("given", "alone"), ("back", "back_alone")
"""The fields of `rules.evidence.Likelihoods` that tell what the instruction says about the answer, and the reverse."""


def likelihoods(
    engine: Engine, frame: Frame, items: Sequence[Asked], sides: Sequence[str]
) -> Iterator[tuple[Asked, Likelihoods]]:
    """The log-probabilities of `sides` for each item, as they are complete.

    One batch of the engine. What items have in common (an instruction with several answers, an answer to several
    instructions) is asked once.
    """
    requests: dict[tuple[Prompt, Prompt], LoglikRequest] = {}
    waiting: dict[str, list[tuple[int, str]]] = {}
    for number, item in enumerate(items):
        for side in sides:
            text = _request(frame, item, side)
            request = requests.setdefault(text, LoglikRequest(f"{item.id}/{side}", *text))
            waiting.setdefault(request.id, []).append((number, side))
    found: dict[int, dict[str, tuple[float, ...]]] = {}
    for loglik in engine.loglik(list(requests.values())):
        for number, side in waiting.pop(loglik.id):
            known = found.setdefault(number, {})
            known[side] = loglik.logprobs
            if len(known) == len(sides):
                yield items[number], Likelihoods(**found.pop(number))


def _request(frame: Frame, item: Asked, side: str) -> tuple[Prompt, Prompt]:
    """What stands before, and the text whose tokens are asked for."""
    if side in FORWARD:
        answer = (Segment(item.answer),)
        if side == "alone":
            return answer_prompt(frame, "", ""), answer
        return answer_prompt(frame, item.instruction, item.input), (*answer, *frame.ending)
    asked = (Segment(user_text(item.instruction, item.input)),)
    return backward_prompt(frame, item.answer if side == "back" else ""), asked
