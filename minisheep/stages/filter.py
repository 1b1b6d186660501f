"""Which pairs are kept: rules first, then the judge's scores or one of the paper's filters that ask no judge. Pure.

Pairs whose instruction carries a constraint are decided by the program that checked them (`stages.constrain`).

ppl           drops answers that the model itself finds unlikely: a perplexity above the limit
density       puts pairs into clusters by their mean last-layer vector and draws one from each, for variety
density+ppl   takes from each cluster the pair with the lowest perplexity, without a limit

Nothing is lost: kept + dropped = made. Only `measure` calls an engine.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from minisheep.config import Keep, Settings
from minisheep.engines.base import EmbedRequest, Engine, LoglikRequest
from minisheep.errors import CorruptRunError, StarvedError
from minisheep.metrics.diversity import assign, clusters_for, project
from minisheep.metrics.stats import describe
from minisheep.rules.constraints import Catalogue
from minisheep.rules.heuristics import kept_text, response_fault
from minisheep.rules.identity import derive_seed
from minisheep.rules.prompts import Frame, answer_prompt, user_text
from minisheep.rules.templates import Prompt, Segment
from minisheep.rules.wording import ENGLISH, Wording
from minisheep.run.records import Asked, Check, Example, Instruction, Rejection, Response, Verdict
from minisheep.stages.constrain import NOT_KEPT, by_checks, exchanged, read_off, spread
from minisheep.stages.judge import Pair

PART = 128
"""Pairs that are measured in both ways before the next ones, since a perplexity alone is not stored."""


@dataclass(frozen=True, slots=True)
class FilterChoice:
    """What a filter keeps, and why not the rest. Ids are those of responses."""

    kept: list[str] = field(default_factory=list)
    """In the order of training: best first."""
    dropped: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The name of the rule and the detail, by id."""


def measure(engine: Engine, settings: Settings, frame: Frame, pairs: Sequence[Pair]) -> Iterator[Verdict]:
    """A verdict for each pair, as they finish; none for the filter ``score``, which measures nothing.

    Its raw numbers are ``perplexity`` (of the answer given the instruction) and ``vector`` (see
    `metrics.diversity.project`), as the filter needs them. Its score is minus the perplexity, so that higher is better,
    or None.
    """
    if settings.filter == "ppl":
        for response, perplexity in _perplexities(engine, frame, pairs):
            yield Verdict(response, "ppl", None, None, -perplexity, {"perplexity": perplexity})
    elif settings.filter == "density":
        for response, vector in _vectors(engine, frame, pairs):
            yield Verdict(response, "density", None, None, None, {"vector": vector})
    elif settings.filter == "density+ppl":
        for start in range(0, len(pairs), PART):
            part = pairs[start : start + PART]
            known = dict(_perplexities(engine, frame, part))
            for response, vector in _vectors(engine, frame, part):
                raw = {"perplexity": known[response], "vector": vector}
                yield Verdict(response, "density+ppl", None, None, -known[response], raw)


def choose(settings: Settings, round: int, verdicts: Mapping[str, Verdict], *, needed: bool = True) -> FilterChoice:
    """What a `settings.filter` other than ``score`` keeps of the verdicts of `measure`, by response id.

    Raises `errors.StarvedError` where a limit drops everything, unless none is `needed`.
    """
    return _by_limit(settings, verdicts, needed) if settings.filter == "ppl" else _by_cluster(settings, round, verdicts)


def _by_limit(settings: Settings, verdicts: Mapping[str, Verdict], needed: bool) -> FilterChoice:
    limit = settings.max_perplexity
    choice = FilterChoice()
    for response in sorted(verdicts, key=lambda response: _order(verdicts, response)):
        perplexity = verdicts[response].raw["perplexity"]
        if perplexity <= limit:
            choice.kept.append(response)
        else:
            choice.dropped[response] = ("high_perplexity", f"perplexity {perplexity:.3g} is above {limit:g}")
    if needed and verdicts and not choice.kept:
        d = describe([verdict.raw["perplexity"] for verdict in verdicts.values()])
        raise StarvedError(
            f"--filter ppl kept none of {d.n} pairs: their perplexities run from {d.min:.3g} to {d.max:.3g} (median"
            f" {d.median:.3g}), and --max-perplexity is {limit:g}.",
            f"Start a new run with --max-perplexity {math.ceil(d.median)}, or another --model.",
        )
    return choice


def _by_cluster(settings: Settings, round: int, verdicts: Mapping[str, Verdict]) -> FilterChoice:
    responses = sorted(verdicts)
    wanted = clusters_for(len(responses), settings.clusters)
    vectors = [verdicts[response].raw["vector"] for response in responses]
    labels = assign(vectors, wanted, derive_seed(settings.seed, round, "clusters"))
    members: dict[int, list[str]] = {}
    for response, label in zip(responses, labels, strict=True):
        members.setdefault(label, []).append(response)
    choice = FilterChoice()
    for cluster, others in sorted(members.items()):
        if settings.filter == "density":
            chance = random.Random(derive_seed(settings.seed, round, "density", cluster))  # noqa: S311
            chosen = chance.choice(others)
            fault = ("crowded", f"another of cluster {cluster} was drawn")
        else:
            chosen = min(others, key=lambda response: _order(verdicts, response))
            lowest = verdicts[chosen].raw["perplexity"]
            fault = ("not_lowest", f"cluster {cluster} has one of perplexity {lowest:.3g}")
        choice.kept.append(chosen)
        choice.dropped.update({response: fault for response in others if response != chosen})
    drawn = settings.filter == "density"
    choice.kept.sort(key=None if drawn else lambda response: _order(verdicts, response))
    return choice


def _order(verdicts: Mapping[str, Verdict], response: str) -> tuple[float, str]:
    """Lowest perplexity first, then by id."""
    return verdicts[response].raw["perplexity"], response


def _perplexities(engine: Engine, frame: Frame, pairs: Sequence[Pair]) -> Iterator[tuple[str, float]]:
    """exp of minus the mean log-probability per token, for each answer after its instruction."""
    requests = [LoglikRequest(pair.response.id, _question(frame, pair), (Segment(pair.answer),)) for pair in pairs]
    for loglik in engine.loglik(requests):
        perplexity = math.exp(-sum(loglik.logprobs) / len(loglik.logprobs))
        yield loglik.id, float(f"{perplexity:.6g}")


def _vectors(engine: Engine, frame: Frame, pairs: Sequence[Pair]) -> Iterator[tuple[str, list[float]]]:
    """The projected vector of each instruction with its answer."""
    requests = [EmbedRequest(pair.response.id, (*_question(frame, pair), Segment(pair.answer))) for pair in pairs]
    for embedding in engine.embed(requests):
        yield embedding.id, project(embedding.vector)


def _question(frame: Frame, pair: Pair) -> Prompt:
    return answer_prompt(frame, pair.question, pair.instruction.input)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs that passed the rules, and rejections of those that did not. cuts: by response, why its answer was cut."""

    pairs: list[Pair]
    cuts: dict[str, str]
    rejected: list[Rejection]


def by_rules(
    instructions: Sequence[Instruction],
    responses: Sequence[Response],
    wording: Wording = ENGLISH,
    rules: str = "on",
    asked: Iterable[Asked] = (),
) -> Candidates:
    """Cut each answer at its natural end, then apply the rules for pairs. In the order of the instructions and, for
    each, of its answers. `rules` is the setting; the paper's leave answers whole. `asked` records how instructions were
    put that were not asked as they stand."""
    records = {record.id: record for record in asked}
    answers: dict[str, list[Response]] = {}
    for response in responses:
        answers.setdefault(response.instruction_id, []).append(response)
    candidates = Candidates([], {}, [])
    for instruction in instructions:
        for response in sorted(answers.get(instruction.id, ()), key=lambda r: r.sample):
            pair = Pair(instruction, response, response.text, records.get(response.asked))
            question = user_text(pair.question, instruction.input)
            answer, cut = kept_text(response.text, response.finish, question, wording, rules)
            finish = "stop" if cut else response.finish
            pair = replace(pair, answer=answer)
            fault = response_fault(pair.question, instruction.input, answer, finish, wording=wording, rules=rules)
            if fault is None:
                candidates.pairs.append(pair)
                candidates.cuts[response.id] = cut
            else:
                candidates.rejected.append(_rejection(fault, pair, response.text))
    return candidates


def for_judge(settings: Settings, candidates: Candidates, checks: Mapping[str, Check]) -> list[Pair]:
    """The pairs that are judged or measured: all without a constraint and, where a judge scores, those that keep it."""
    return [
        pair
        for pair in candidates.pairs
        if not pair.constrained or (settings.judges and checks[pair.response.id].passed)
    ]


def by_score(
    candidates: Candidates, verdicts: Mapping[str, Verdict], keep: Keep, *, needed: bool = True
) -> tuple[list[Example], list[Rejection]]:
    """Examples for training, best first, and what was dropped.

    Of the answers to one instruction only the best can be kept. ``threshold`` keeps a pair when its score (the lower of
    the criteria) is above the value, as the paper does; ``top`` keeps the best fraction, at least one. A pair without a
    readable score is dropped. Raises `errors.StarvedError` when nothing is left, unless none is `needed`.
    """
    scored, rejected = [], list(candidates.rejected)
    for pair in candidates.pairs:
        verdict = verdicts[pair.response.id]
        if verdict.score is None:
            rejected.append(_rejection(("no_score", "the judge's reply held no grade"), pair))
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
            rejected.append(_rejection(("not_best", detail), pair))
    keep = keep.settled(ranked[0][2].judge) if ranked else keep
    if keep.kind == "top":
        chosen = ranked[: max(1, int(len(ranked) * keep.value + 0.5))]
        rule = f"below the best {keep.value:g} of the round"
    else:
        chosen = [item for item in ranked if item[0] > keep.value]
        rule = f"not above {keep.value:g}"
    if needed and not chosen:
        raise _starved(rejected, keep, [score for score, _, _ in ranked])
    for score, pair, _ in ranked[len(chosen) :]:
        rejected.append(_rejection(("low_score", f"{score:.3g} is {rule}"), pair))
    return [_example(pair, verdict, candidates.cuts[pair.response.id]) for _, pair, verdict in chosen], rejected


def by_measures(
    candidates: Candidates, verdicts: Mapping[str, Verdict], settings: Settings, round: int, *, needed: bool = True
) -> tuple[list[Example], list[Rejection]]:
    """What a filter that asks no judge keeps. Raises `errors.StarvedError` where that is nothing, unless none is
    `needed`."""
    if needed and not candidates.pairs:
        raise _starved(candidates.rejected)
    pairs = {pair.response.id: pair for pair in candidates.pairs}
    choice = choose(settings, round, {id_: verdicts[id_] for id_ in pairs}, needed=needed)
    dropped = [_rejection(fault, pairs[id_]) for id_, fault in choice.dropped.items()]
    kept = [_example(pairs[id_], verdicts[id_], candidates.cuts[id_]) for id_ in choice.kept]
    return kept, [*candidates.rejected, *dropped]


def keep_all(candidates: Candidates, *, needed: bool = True) -> tuple[list[Example], list[Rejection]]:
    """Every pair that passed the rules (no judge: the self-instruct baseline). Raises `errors.StarvedError` where there
    is none, unless none is `needed`."""
    if needed and not candidates.pairs:
        raise _starved(candidates.rejected)
    return [_example(pair, None, candidates.cuts[pair.response.id]) for pair in candidates.pairs], candidates.rejected


def keep_examples(
    settings: Settings,
    round: int,
    instructions: Sequence[Instruction],
    candidates: Candidates,
    verdicts: Sequence[Verdict],
    checks: Sequence[Check] = (),
    catalogue: Catalogue | None = None,
) -> tuple[list[Example], list[Rejection]]:
    """The filter after `by_rules`, which found the `candidates`: programs for pairs with a constraint (of the run's
    `catalogue`), and what the settings say for the others. The examples stand as training takes them.

    Raises `errors.StarvedError` where nothing is kept, and `errors.CorruptRunError` where a check or a verdict is
    missing.
    """
    by_response = {v.response_id: v for v in verdicts}
    by_check = {check.response_id: check for check in checks}
    constrained = [pair for pair in candidates.pairs if pair.constrained]
    _all_there(constrained, by_check, round, "checks.jsonl")
    if settings.judges or settings.filter != "score":
        _all_there(for_judge(settings, candidates, by_check), by_response, round, "verdicts.jsonl")
    checked, failed = by_checks(constrained, by_check, by_response, candidates.cuts)
    plain = Candidates(
        [pair for pair in candidates.pairs if not pair.constrained],
        candidates.cuts,
        [*candidates.rejected, *(_rejection(fault, pair) for pair, fault in failed)],
    )
    needed = not checked
    if settings.filter != "score":
        kept, rejected = by_measures(plain, by_response, settings, round, needed=needed)
    elif settings.assess == "none":
        kept, rejected = keep_all(plain, needed=needed)
    else:
        kept, rejected = by_score(plain, by_response, settings.keep, needed=needed)
    if settings.hindsight and catalogue is not None:
        kept = read_off(settings, round, catalogue, kept, {pair.response.id: pair.answer for pair in plain.pairs})
    certain = [_example(p, by_response.get(p.response.id), candidates.cuts[p.response.id]) for p in checked]
    if settings.constraint_control == "exchanged":
        certain = exchanged(settings, round, list(zip(checked, certain, strict=True)))
    return _in_order(settings, instructions, spread(certain, kept)), rejected


def _all_there(pairs: Sequence[Pair], found: Mapping[str, object], round: int, name: str) -> None:
    without = sum(pair.response.id not in found for pair in pairs)
    if without:
        raise CorruptRunError(
            f"{without} of {len(pairs)} answers of round {round} have no record in round-{round}/{name}, which is"
            " damaged.",
            "Restore it from a copy, or start a new run.",
        )


def _in_order(settings: Settings, instructions: Sequence[Instruction], kept: list[Example]) -> list[Example]:
    """As training takes them: the best first, or the first that were made."""
    if settings.take == "best":
        return kept
    places = {instruction.id: place for place, instruction in enumerate(instructions)}
    return sorted(kept, key=lambda example: places[example.parents[0]])


def _starved(rejected: Sequence[Rejection], keep: Keep | None = None, scores: Sequence[float] = ()) -> StarvedError:
    """Why nothing was kept: the distribution of the scores, or the rules that dropped everything."""
    if scores:
        d = describe(scores)
        return StarvedError(
            f"--keep {keep} kept none of {len(scores)} judged pairs: their scores run from {d.min:.3g} to"
            f" {d.max:.3g} (median {d.median:.3g}, mean {d.mean:.3g}).",
            "The run is safe: give the same command with --keep top:0.5 or a lower threshold to go on here.",
        )
    fix = "Start a new run with a lower --answer-temperature, more --answer-max-tokens or another --model."
    if any(rejection.rule == NOT_KEPT for rejection in rejected):
        fix = (
            "Start a new run with more --answers, a lower --constraints, or kinds in --constraint-file that this model"
            " can keep; a plug-in that gave no verdict must be fixed first."
        )
    return StarvedError(
        f"No pair was left to keep: rules dropped all {len(rejected)} before any score counted"
        f" ({rule_counts(rejected)}).",
        fix,
    )


def rule_counts(rejected: Sequence[Rejection], most: int | None = None) -> str:
    """How many each rule dropped, the most first; `most` rules at most."""
    rules = Counter(rejection.rule for rejection in rejected)
    return ", ".join(f"{rule} {count}" for rule, count in rules.most_common(most))


def _rejection(fault: tuple[str, str], pair: Pair, output: str | None = None) -> Rejection:
    """`output` is the pair's answer, unless given."""
    instruction, text = pair.instruction, pair.answer if output is None else output
    return Rejection("filter", *fault, pair.response.id, instruction.position, pair.question, instruction.input, text)


def _example(pair: Pair, verdict: Verdict | None, cut: str) -> Example:
    user = user_text(pair.question, pair.instruction.input)
    made_of = (pair.instruction, pair.response, verdict, pair.asked)
    return Example(
        instruction=pair.question,
        input=pair.instruction.input,
        output=pair.answer,
        messages=[{"role": "user", "content": user}, {"role": "assistant", "content": pair.answer}],
        score=verdict.score if verdict else None,
        quality=verdict.quality if verdict else None,
        following=verdict.following if verdict else None,
        cut=cut,
        parents=tuple(record.id for record in made_of if record is not None),
        constraint=pair.asked.constraint or None if pair.asked else None,
    )
