"""Asks an engine how likely pairs are, each text once however many pairs hold it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from minisheep.engines.base import Engine, LoglikRequest
from minisheep.rules.evidence import Likelihoods
from minisheep.rules.prompts import Frame, answer_prompt, backward_prompt, user_text
from minisheep.rules.templates import Prompt, Segment
from minisheep.stages.asked import Asked

FORWARD, BACKWARD = ("given", "alone"), ("back", "back_alone")
"""The fields of `rules.evidence.Likelihoods` that tell what the instruction says about the answer, and the reverse."""


TOGETHER = 64
"""Items that an engine is asked for at once. It reads what texts share first, so an item is complete late in its batch:
in larger ones much would be lost by a crash, and nothing be told for minutes. Batches of this size still fill it."""

Text = tuple[Prompt, Prompt]
"""What stands before, and the text whose tokens are asked for."""


def likelihoods(
    engine: Engine, frame: Frame, items: Sequence[Asked], sides: Sequence[str]
) -> Iterator[tuple[Asked, Likelihoods]]:
    """The log-probabilities of `sides` for each item, as they are complete.

    What items have in common (an instruction with several answers, an answer to several instructions) is asked once.
    """
    texts = [{side: _text(frame, item, side) for side in sides} for item in items]
    uses = Counter(text for some in texts for text in some.values())
    known: dict[Text, tuple[float, ...]] = {}

    def complete(numbers: Iterable[int]) -> Iterator[tuple[Asked, Likelihoods]]:
        """Those of the items of which all is known; what nothing else needs is forgotten."""
        for number in numbers:
            if all(text in known for text in texts[number].values()):
                yield items[number], Likelihoods(**{side: known[text] for side, text in texts[number].items()})
                for text in texts[number].values():
                    uses[text] -= 1
                    if not uses[text]:
                        del known[text]

    for start in range(0, len(items), TOGETHER):
        batch = range(start, min(start + TOGETHER, len(items)))
        requests: dict[str, Text] = {}
        waiting: dict[Text, list[int]] = {}
        whole = [number for number in batch if all(text in known for text in texts[number].values())]
        for number in batch:
            for side, text in texts[number].items():
                if text not in known:
                    if text not in waiting:
                        requests[f"{items[number].id}/{side}"] = text
                    waiting.setdefault(text, []).append(number)
        yield from complete(whole)
        for loglik in engine.loglik([LoglikRequest(name, *text) for name, text in requests.items()]):
            text = requests[loglik.id]
            known[text] = loglik.logprobs
            yield from complete(waiting.pop(text))


def _text(frame: Frame, item: Asked, side: str) -> Text:
    if side in FORWARD:
        answer = (Segment(item.answer),)
        if side == "alone":
            return answer_prompt(frame, "", ""), answer
        return answer_prompt(frame, item.instruction, item.input), (*answer, *frame.ending)
    asked = (Segment(user_text(item.instruction, item.input)),)
    return backward_prompt(frame, item.answer if side == "back" else ""), asked
