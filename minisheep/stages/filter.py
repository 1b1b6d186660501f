"""Which pairs are kept: rules first, then scores. Wholly pure; kept + dropped = made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minisheep.config import Keep, Settings
from minisheep.errors import StarvedError
from minisheep.records import Example, Instruction, Rejection, Response, Verdict
from minisheep.rules.endings import cut_answer
from minisheep.rules.prompts import user_text
from minisheep.rules.responses import response_fault
from minisheep.rules.statistics import describe
from minisheep.stages import measures
from minisheep.stages.asked import Pair


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs that passed the rules, with the answer as it would be kept and why it was cut; and those that did not."""

    pairs: list[Pair]
    cuts: dict[str, str]
    rejected: list[Rejection]


def by_rules(
    instructions: Sequence[Instruction], responses: Sequence[Response], language: str, rules: bool = True
) -> Candidates:
    """Cut each answer at its natural end, then apply the rules for pairs. In the order of the instructions and, for
    each, of its answers. Without `rules` only empty answers are dropped."""
    answers: dict[str, list[Response]] = {}
    for response in responses:
        answers.setdefault(response.instruction_id, []).append(response)
    found = Candidates([], {}, [])
    for instruction in instructions:
        for response in sorted(answers.get(instruction.id, ()), key=lambda r: r.sample):
            answer, cut = cut_answer(response.text, response.finish)
            fault = response_fault(
                instruction.instruction, instruction.input, answer, "stop" if cut else response.finish,
                language=language,
            )  # fmt: skip
            if fault is None or not (rules or fault[0] == "empty"):
                found.pairs.append(Pair(instruction, response, answer))
                found.cuts[response.id] = cut
            else:
                found.rejected.append(_rejection(fault, instruction, response, response.text))
    return found


def by_score(
    candidates: Candidates, verdicts: Mapping[str, Verdict], keep: Keep
) -> tuple[list[Example], list[Rejection]]:
    """Examples for training, best first, and what was dropped.

    Of the answers to one instruction only the best judged can be kept. ``threshold`` keeps a pair when its score (the
    lower of the criteria) is above the value, as the paper does; ``top`` keeps the best fraction, at least one. A pair
    without a readable score is dropped. Raises `errors.StarvedError` when nothing is left.
    """
    scored, rejected = [], list(candidates.rejected)
    for pair in candidates.pairs:
        verdict = verdicts[pair.response.id]
        if verdict.score is None:
            rejected.append(_rejection(("no_score", "the judge's reply held no grade"), *_whole(pair)))
        else:
            scored.append((verdict.score, pair, verdict))
    scored.sort(key=lambda item: (-item[0], item[1].response.id))
    ranked: list[tuple[float, Pair, Verdict]] = []
    best: dict[str, tuple[float, Pair]] = {}
    for score, pair, verdict in scored:
        higher, other = best.setdefault(pair.instruction.id, (score, pair))
        if other is pair:
            ranked.append((score, pair, verdict))
        else:
            detail = f"{score:.3g} is not above the {higher:.3g} of answer {other.response.sample}"
            rejected.append(_rejection(("not_best", detail), *_whole(pair)))
    keep = keep.settled(ranked[0][2].judge) if ranked else keep
    if keep.kind == "top":
        chosen = ranked[: max(1, int(len(ranked) * keep.value + 0.5))]
        rule = f"below the best {keep.value:g} of the round"
    else:
        chosen = [item for item in ranked if item[0] > keep.value]
        rule = f"not above {keep.value:g}"
    if not chosen:
        raise StarvedError(starved_message(keep, [s for s, _, _ in ranked], rejected), _starved_fix(keep, ranked))
    for score, pair, _ in ranked[len(chosen) :]:
        rejected.append(_rejection(("low_score", f"{score:.3g} is {rule}"), *_whole(pair)))
    return [_example(pair, verdict, candidates.cuts[pair.response.id]) for _, pair, verdict in chosen], rejected


def by_measures(
    candidates: Candidates, verdicts: Mapping[str, Verdict], settings: Settings, round: int
) -> tuple[list[Example], list[Rejection]]:
    """What a model-only filter keeps (perplexity, density): see `stages.measures`. Raises `errors.StarvedError`."""
    choice = measures.choose(
        settings, round, {pair.response.id: verdicts[pair.response.id] for pair in candidates.pairs}
    )
    pairs = {pair.response.id: pair for pair in candidates.pairs}
    dropped = [_rejection(fault, *_whole(pairs[id_])) for id_, fault in choice.dropped.items()]
    rejected = [*candidates.rejected, *dropped]
    if not choice.kept:
        raise StarvedError(
            f"--filter {settings.filter} kept none of {len(pairs)} pairs ({told_rules(rejected)}).",
            "Start a new run with a higher --max-perplexity or a lower --answer-temperature.",
        )
    return [_example(pairs[id_], verdicts[id_], candidates.cuts[id_]) for id_ in choice.kept], rejected


def keep_all(candidates: Candidates) -> tuple[list[Example], list[Rejection]]:
    """Every pair that passed the rules (no assessment: the self-instruct baseline). Raises `errors.StarvedError`."""
    if not candidates.pairs:
        raise StarvedError(starved_message(Keep("auto"), [], candidates.rejected), _starved_fix(Keep("auto"), []))
    return [_example(pair, None, candidates.cuts[pair.response.id]) for pair in candidates.pairs], candidates.rejected


def keep_examples(
    settings: Settings,
    round: int,
    instructions: Sequence[Instruction],
    responses: Sequence[Response],
    verdicts: Sequence[Verdict],
) -> tuple[list[Example], list[Rejection]]:
    """The whole filter: `by_rules`, then by what the settings say."""
    candidates = by_rules(instructions, responses, settings.language, settings.rules == "on")
    found = {v.response_id: v for v in verdicts}
    if settings.filter != "score":
        return by_measures(candidates, found, settings, round)
    if settings.assess == "none":
        return keep_all(candidates)
    return by_score(candidates, found, settings.keep)


def starved_message(keep: Keep, scores: Sequence[float], rejected: Sequence[Rejection]) -> str:
    """Why nothing was kept: the distribution of the scores, or the rules that dropped everything."""
    if scores:
        d = describe(scores)
        return (
            f"--keep {keep} kept none of {len(scores)} judged pairs: their scores run from {d.min:.3g} to"
            f" {d.max:.3g} (median {d.median:.3g}, mean {d.mean:.3g})."
        )
    return (
        f"No pair was left to keep: all {len(rejected)} were dropped before their scores counted"
        f" ({told_rules(rejected)})."
    )


def told_rules(rejected: Sequence[Rejection], most: int | None = None) -> str:
    """How many each rule dropped, the most first; at most so many rules."""
    rules = Counter(rejection.rule for rejection in rejected)
    return ", ".join(f"{rule} {count}" for rule, count in rules.most_common(most))


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


def _example(pair: Pair, verdict: Verdict | None, cut: str) -> Example:
    user = user_text(pair.instruction.instruction, pair.instruction.input)
    return Example(
        instruction=pair.instruction.instruction,
        input=pair.instruction.input,
        output=pair.answer,
        messages=[{"role": "user", "content": user}, {"role": "assistant", "content": pair.answer}],
        score=verdict.score if verdict else None,
        quality=verdict.quality if verdict else None,
        following=verdict.following if verdict else None,
        cut=cut,
        parents=(pair.instruction.id, pair.response.id, *((verdict.id,) if verdict else ())),
    )
