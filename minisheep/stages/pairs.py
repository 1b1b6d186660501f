"""Pairs for a preference loss: a kept answer, and a worse one to the same instruction. Pure, but for `unshown_answers`.

checked   the worse answer fails the constraint that the kept one keeps
judged    the worse answer has the lowest score of the judge's, below that of the kept one
shown     the kept answer was given after solved tasks, the worse one by the same model without them

Both answers passed the rules, or the pair would teach what the rules know already; an unshown answer need only not be
empty, since going on for ever is what showing mends. A pair's answers have about the same length (`WIDEST`), or what a
preference loss learns first is length. A kept example without a pair is counted by reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from minisheep.config import Settings
from minisheep.engines.base import Engine, GenerateRequest, Sampling
from minisheep.rules.identity import derive_seed
from minisheep.rules.prompts import Frame, answer_prompt
from minisheep.rules.text_words import word_count
from minisheep.rules.wording import ENGLISH, Wording
from minisheep.run.records import Example, PreferencePair, Response, Verdict
from minisheep.stages.filter import as_kept
from minisheep.stages.judge import Pair

WIDEST = 0.3
"""By how much of the longer answer, in words, the shorter one may be shorter."""
REASONS = {
    "unchecked": "nothing was checked, since they were asked without a constraint",
    "none_fails": "no answer fails the constraint",
    "none_worse": "no answer has a lower score",
    "none_unshown": "no answer without solved tasks",
    "length": f"the lengths differ by more than {100 * WIDEST:.0f} %",
}
"""Why a kept example has no pair, in words."""


def wants_unshown(settings: Settings, shown: bool) -> bool:
    """Whether one answer more is drawn for each instruction, without the solved tasks that the others were shown."""
    return shown and settings.loss != "sft" and settings.prefer == "shown"


def unshown_answers(
    engine: Engine,
    settings: Settings,
    frame: Frame,
    round: int,
    texts: Mapping[str, tuple[str, str]],
    shown: Mapping[str, Sequence[Response]],
) -> Iterator[Response]:
    """One answer to each instruction, asked plainly, as they finish. `texts` holds (instruction, input) by id.

    It gets no more tokens than its pair may be long: `WIDEST` above the longest of the `shown` answers, which are given
    by instruction id. A base model rarely ends by itself, and whole answers would be several times as long.
    """
    requests = []
    for id_, (instruction, input) in texts.items():
        longest = max(response.tokens for response in shown[id_])
        sampling = Sampling(
            temperature=settings.answer_temperature,
            top_p=settings.answer_top_p,
            max_tokens=min(settings.answer_max_tokens, max(8, math.ceil(longest * (1 + WIDEST)))),
            stop=frame.stop,
        )
        seed = derive_seed(settings.seed, round, "unshown", id_)
        requests.append(GenerateRequest(id_, answer_prompt(frame, instruction, input), sampling, seed))
    for completion in engine.generate(requests):
        yield Response(completion.id, 0, completion.text, completion.finish, completion.tokens)


def preference_pairs(
    settings: Settings,
    kept: Sequence[Example],
    candidates: Sequence[Pair],
    verdicts: Mapping[str, Verdict],
    passed: Mapping[str, bool],
    unshown: Sequence[Response] = (),
    wording: Wording = ENGLISH,
) -> tuple[list[PreferencePair], dict[str, int]]:
    """The pairs in the order of `kept`, and how many kept examples have none, by a key of `REASONS`.

    `candidates` passed the rules; `verdicts` and `passed` (whether a checked answer keeps its constraint) are by
    response id.
    """
    answers: dict[str, list[Pair]] = {}
    for pair in candidates:
        answers.setdefault(pair.instruction.id, []).append(pair)
    without = {response.instruction_id: response for response in unshown}
    pairs: list[PreferencePair] = []
    missed: Counter[str] = Counter()
    for example in kept:
        instruction, own = example.parents[:2]
        others = [pair for pair in answers.get(instruction, ()) if pair.response.id != own]
        if settings.prefer == "checked":
            worse, reason = _failing(others, verdicts, passed, own), "none_fails" if own in passed else "unchecked"
        elif settings.prefer == "judged":
            worse, reason = _worse(others, verdicts, own), "none_worse"
        else:
            answer, prompt = without.get(instruction), example.messages[0]["content"]
            worse, reason = _unshown(answer, example.output, prompt, wording, settings.rules), "none_unshown"
        fitting = [found for found in worse if alike(example.output, found[1])]
        if fitting:
            pairs.append(_pair(example, settings.prefer, *fitting[0]))
        else:
            missed["length" if worse else reason] += 1
    return pairs, dict(missed)


Worse = tuple[Response, str, bool]
"""A worse answer: the response, its text as it would be kept, and whether it ended by itself."""


def _failing(
    others: Sequence[Pair], verdicts: Mapping[str, Verdict], passed: Mapping[str, bool], own: str
) -> list[Worse]:
    """Answers that fail where the kept one passes; what the judge likes least comes first, where there is one."""
    if not passed.get(own, False):
        return []
    failing = [pair for pair in others if passed.get(pair.response.id) is False]
    return [_whole(pair) for pair in sorted(failing, key=lambda pair: (_score(pair, verdicts), pair.response.sample))]


def _worse(others: Sequence[Pair], verdicts: Mapping[str, Verdict], own: str) -> list[Worse]:
    """Answers of a lower score, the lowest first."""
    verdict = verdicts.get(own)
    if verdict is None or verdict.score is None:
        return []
    lower = [pair for pair in others if _score(pair, verdicts) < verdict.score]
    return [_whole(pair) for pair in sorted(lower, key=lambda pair: (_score(pair, verdicts), pair.response.sample))]


def _unshown(response: Response | None, kept: str, prompt: str, wording: Wording, rules: str) -> list[Worse]:
    """The unshown answer, unless it is empty or says the same."""
    if response is None:
        return []
    text, cut = as_kept(response, prompt, wording, rules)
    ended = response.finish != "length" or cut not in ("", "last_sentence")
    return [(response, text, ended)] if text.strip() and text != kept else []


def _whole(pair: Pair) -> Worse:
    cut = pair.answer != pair.response.text.strip()
    return pair.response, pair.answer, cut or pair.response.finish != "length"


def _score(pair: Pair, verdicts: Mapping[str, Verdict]) -> float:
    """An answer without a readable score is no worse than any: it is not known to be."""
    verdict = verdicts.get(pair.response.id)
    return math.inf if verdict is None or verdict.score is None else verdict.score


def alike(one: str, other: str) -> bool:
    """Whether two answers are about equally long, in words."""
    shorter, longer = sorted((word_count(one), word_count(other)))
    return shorter >= (1 - WIDEST) * longer


def _pair(example: Example, by: str, response: Response, text: str, ended: bool) -> PreferencePair:
    return PreferencePair(
        prompt=example.messages[:1],
        chosen=example.messages[1:],
        rejected=[{"role": "assistant", "content": text}],
        by=by,
        rejected_ended=ended,
        parents=(example.id, example.parents[1], response.id),
    )


def pairs_text(round: int, kept: int, pairs: int, missed: Mapping[str, int]) -> str:
    """How many kept answers have a worse one, and why not the rest, in a sentence."""
    why = ", ".join(f"{REASONS[reason]} ({count})" for reason, count in sorted(missed.items()))
    return f"Round {round}: {pairs} of {kept} kept answers have a worse one to compare with" + (
        f"; for the others {why}." if why else "."
    )
