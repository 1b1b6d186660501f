"""Which pairs are kept: rules first, then scores. Wholly pure; kept + dropped = made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minisheep.config import Keep, Settings
from minisheep.errors import StarvedError
from minisheep.records import Example, Instruction, Rejection, Response, Verdict
from minisheep.rules.endings import cut_answer
from minisheep.rules.prompts import user_text
from minisheep.rules.responses import response_fault
from minisheep.rules.statistics import describe
from minisheep.stages.judge import Pair


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs that passed the rules, with the answer as it would be kept and why it was cut; and those that did not."""

    pairs: list[Pair]
    cuts: dict[str, str]
    rejected: list[Rejection]


def by_rules(instructions: Sequence[Instruction], responses: Sequence[Response], language: str) -> Candidates:
    """Cut each answer at its natural end, then apply the rules for pairs. In the order of the instructions."""
    answers = {response.instruction_id: response for response in responses}
    found = Candidates([], {}, [])
    for instruction in instructions:
        response = answers.get(instruction.id)
        if response is None:
            continue
        answer, cut = cut_answer(response.text, response.finish)
        fault = response_fault(
            instruction.instruction, instruction.input, answer, "stop" if cut else response.finish, language=language
        )
        if fault is None:
            found.pairs.append(Pair(instruction, response, answer))
            found.cuts[response.id] = cut
        else:
            found.rejected.append(_rejection(fault, instruction, response, response.text))
    return found


def by_score(
    candidates: Candidates, verdicts: Mapping[str, Verdict], keep: Keep
) -> tuple[list[Example], list[Rejection]]:
    """Examples for training, best first, and what was dropped.

    ``threshold`` keeps a pair when its score (the lower of the two criteria) is above the value, as the paper does;
    ``top`` keeps the best fraction, at least one. A pair without a readable score is dropped. Raises
    `errors.StarvedError` when nothing is left.
    """
    scored, rejected = [], list(candidates.rejected)
    for pair in candidates.pairs:
        verdict = verdicts[pair.response.id]
        if verdict.score is None:
            rejected.append(_rejection(("no_score", "the judge's reply held no grade"), *_whole(pair)))
        else:
            scored.append((verdict.score, pair, verdict))
    scored.sort(key=lambda item: (-item[0], item[1].response.id))
    if keep.kind == "top":
        chosen = scored[: max(1, int(len(scored) * keep.value + 0.5))]
        rule = f"below the best {keep.value:g} of the round"
    else:
        chosen = [item for item in scored if item[0] > keep.value]
        rule = f"not above {keep.value:g}"
    if not chosen:
        raise StarvedError(starved_message(keep, [s for s, _, _ in scored], rejected), _starved_fix(keep, scored))
    for score, pair, _ in scored[len(chosen) :]:
        rejected.append(_rejection(("low_score", f"{score:.3g} is {rule}"), *_whole(pair)))
    return [_example(pair, verdict, candidates.cuts[pair.response.id]) for _, pair, verdict in chosen], rejected


def keep_examples(
    settings: Settings, instructions: Sequence[Instruction], responses: Sequence[Response], verdicts: Sequence[Verdict]
) -> tuple[list[Example], list[Rejection]]:
    """The whole filter: `by_rules`, then `by_score`."""
    candidates = by_rules(instructions, responses, settings.language)
    return by_score(candidates, {v.response_id: v for v in verdicts}, Keep.parse(settings.keep))


def starved_message(keep: Keep, scores: Sequence[float], rejected: Sequence[Rejection]) -> str:
    """Why nothing was kept: the distribution of the scores, or the rules that dropped everything."""
    name = f"{keep.kind}:{keep.value:g}"
    if scores:
        d = describe(scores)
        return (
            f"--keep {name} kept none of {len(scores)} judged pairs: their scores run from {d.min:.3g} to"
            f" {d.max:.3g} (median {d.median:.3g}, mean {d.mean:.3g})."
        )
    rules: dict[str, int] = {}
    for rejection in rejected:
        rules[rejection.rule] = rules.get(rejection.rule, 0) + 1
    told = ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items(), key=lambda item: -item[1]))
    return f"No pair was left to keep: all {len(rejected)} were dropped before their scores counted ({told})."


def _starved_fix(keep: Keep, scored: Sequence[object]) -> str:
    if scored:
        return "The run is safe: give the same command with --keep top:0.5, or a lower threshold, and it goes on here."
    return "Start a new run with a lower --answer-temperature, more --answer-max-tokens or another --model."


def _whole(pair: Pair) -> tuple[Instruction, Response, str]:
    return pair.instruction, pair.response, pair.answer


def _rejection(fault: tuple[str, str], instruction: Instruction, response: Response, output: str) -> Rejection:
    return Rejection(
        "filter", *fault, response.id, instruction.position, instruction.instruction, instruction.input, output
    )


def _example(pair: Pair, verdict: Verdict, cut: str) -> Example:
    user = user_text(pair.instruction.instruction, pair.instruction.input)
    return Example(
        instruction=pair.instruction.instruction,
        input=pair.instruction.input,
        output=pair.answer,
        messages=[{"role": "user", "content": user}, {"role": "assistant", "content": pair.answer}],
        score=verdict.score,
        quality=verdict.quality,
        following=verdict.following,
        cut=cut,
        parents=(pair.instruction.id, pair.response.id, verdict.id),
    )
