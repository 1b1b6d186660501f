"""The paper's filters that ask no judge: what they measure of a pair, and which pairs they keep. Choosing is pure.

ppl           drops answers that the model itself finds unlikely: a perplexity above the limit.
density       puts pairs into clusters by their mean last-layer vector and draws one from each, for variety.
density+ppl   takes from each cluster the pair with the lowest perplexity, without a limit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from minisheep.config import Settings
from minisheep.engines.base import EmbedRequest, Engine, LoglikRequest
from minisheep.errors import StarvedError
from minisheep.records import Verdict, derive_seed
from minisheep.rules.density import assign, clusters_for, project
from minisheep.rules.prompts import Frame, answer_prompt
from minisheep.rules.statistics import describe
from minisheep.rules.templates import Prompt, Segment
from minisheep.stages.asked import Pair

PART = 128
"""Pairs that are measured in both ways before the next, since a perplexity alone is not on disk yet."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a filter keeps, and why not the rest. Ids are those of responses."""

    kept: list[str] = field(default_factory=list)
    """In the order in which they are to be trained on: best first."""
    dropped: dict[str, tuple[str, str]] = field(default_factory=dict)
    """For each, the name of the rule and the detail."""


def measure(engine: Engine, settings: Settings, frame: Frame, pairs: Sequence[Pair]) -> Iterator[Verdict]:
    """A verdict for each pair, as they finish; none for the filter ``score``, which measures nothing.

    Raw are ``perplexity`` (of the answer given the instruction) and ``vector`` (see `density.project`), as the filter
    needs them; the score is minus the perplexity, so that higher is better, or None.
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


def choose(settings: Settings, round: int, verdicts: Mapping[str, Verdict]) -> Choice:
    """What a `settings.filter` other than ``score`` keeps of the verdicts of `measure`, by response id.

    The raw numbers must be there. Raises `errors.StarvedError` where a limit drops everything.
    """
    return _by_limit(settings, verdicts) if settings.filter == "ppl" else _by_cluster(settings, round, verdicts)


def _by_limit(settings: Settings, verdicts: Mapping[str, Verdict]) -> Choice:
    limit = settings.max_perplexity
    choice = Choice()
    for response in sorted(verdicts, key=lambda response: _order(verdicts, response)):
        perplexity = verdicts[response].raw["perplexity"]
        if perplexity <= limit:
            choice.kept.append(response)
        else:
            choice.dropped[response] = ("high_perplexity", f"perplexity {perplexity:.3g} is above {limit:g}")
    if verdicts and not choice.kept:
        d = describe([verdict.raw["perplexity"] for verdict in verdicts.values()])
        raise StarvedError(
            f"--filter ppl kept none of {d.n} pairs: their perplexities run from {d.min:.3g} to {d.max:.3g} (median"
            f" {d.median:.3g}), and --max-perplexity is {limit:g}.",
            f"Start a new run with --max-perplexity {math.ceil(d.median)}, or another --model.",
        )
    return choice


def _by_cluster(settings: Settings, round: int, verdicts: Mapping[str, Verdict]) -> Choice:
    responses = sorted(verdicts)
    wanted = clusters_for(len(responses), settings.clusters)
    vectors = [verdicts[response].raw["vector"] for response in responses]
    labels = assign(vectors, wanted, derive_seed(settings.seed, round, "clusters"))
    members: dict[int, list[str]] = {}
    for response, label in zip(responses, labels, strict=True):
        members.setdefault(label, []).append(response)
    choice = Choice()
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
    """exp of minus the mean log-probability per token, of each answer after its instruction."""
    requests = [LoglikRequest(pair.response.id, _asked(frame, pair), (Segment(pair.answer),)) for pair in pairs]
    for loglik in engine.loglik(requests):
        perplexity = math.exp(-sum(loglik.logprobs) / len(loglik.logprobs))
        yield loglik.id, float(f"{perplexity:.6g}")


def _vectors(engine: Engine, frame: Frame, pairs: Sequence[Pair]) -> Iterator[tuple[str, list[float]]]:
    """The projected vector of each instruction with its answer."""
    requests = [EmbedRequest(pair.response.id, (*_asked(frame, pair), Segment(pair.answer))) for pair in pairs]
    for found in engine.embed(requests):
        yield found.id, project(found.vector)


def _asked(frame: Frame, pair: Pair) -> Prompt:
    return answer_prompt(frame, pair.instruction.instruction, pair.instruction.input)
