"""How scores, lengths and similarities are distributed, round beside round. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

import numpy as np

from minisheep.report.blocks import Block, Charts, Histogram, Paragraph, Section, Table
from minisheep.report.gather import Gathered, Round
from minisheep.rules.statistics import quantile
from minisheep.stages.evaluate import EDGES, PERPLEXITY_EDGES

MOST_ROUNDS = 4
"""Rounds in one picture: the first and the newest; tables have all."""
BINS = 20
SHARES = (0.1, 0.5, 0.9)

T = TypeVar("T")
Values = Mapping[str, Sequence[float]]
"""By the name of a round."""


def section(run: Gathered) -> Section:
    return Section("distributions", "Scores, lengths, similarity", tuple(_blocks(run)))


def _blocks(run: Gathered) -> Iterator[Block]:
    tables: list[tuple[str, Values]] = []
    plots: list[Histogram] = []
    for judge, scores in _scores(run).items():
        tables.append((f"score by {judge}", scores))
        edges = EDGES.get(judge, PERPLEXITY_EDGES)
        plots.append(_histogram(f"scores-{len(plots)}", f"Scores by {judge}", "score", edges, scores))
    for name, title, axis, values in _others(run):
        tables.append((title, values))
        edges = tuple(x / 20 for x in range(21)) if name == "similarity" else length_edges(_flat(values))
        plots.append(_histogram(name, title, axis, edges, values))
    plots = [plot for plot in plots if any(sum(counts) for _, counts in plot.series)]
    if not tables:
        yield Paragraph("There are no instructions yet.")
        return
    if plots:
        yield Charts(
            tuple(plots),
            "Shares of each round. A score outside the bins of its judge's scale is not drawn; the last bin of a length"
            " holds all longer ones. Similarity is ROUGE-L with the nearest seed task or earlier instruction.",
        )
    yield Table(
        ("what", "round", "number", "mean", "least", "10 %", "half", "90 %", "most"),
        tuple(
            (name, title, f"{len(found):,}", *(f"{value:.3g}" for value in _summary(found)))
            for name, values in tables
            for title, found in values.items()
            if found
        ),
        left=2,
    )


def length_edges(values: Sequence[float], bins: int = BINS) -> tuple[float, ...]:
    """Edges from 0 in whole steps up to about the 98th percentile: a few very long texts shall not squeeze the rest."""
    top = quantile(values, 0.98) if values else 1.0
    step = max(1, math.ceil(top / bins))
    return tuple(float(step * place) for place in range(bins + 1))


def first_and_newest(rounds: Sequence[T]) -> list[T]:
    """The first round and the newest ones, which one picture shows: more colours cannot be told apart."""
    return list(rounds) if len(rounds) <= MOST_ROUNDS else [rounds[0], *rounds[1 - MOST_ROUNDS :]]


def _scores(run: Gathered) -> dict[str, dict[str, list[float]]]:
    """By judge, whose scales differ; ``auto`` may choose another one in each round."""
    found: dict[str, dict[str, list[float]]] = {}
    for r in run.rounds:
        for verdict in r.verdicts:
            if _is_number(verdict.score):
                found.setdefault(str(verdict.judge), {}).setdefault(r.title, []).append(float(verdict.score or 0.0))
    return found


def _others(run: Gathered) -> Iterator[tuple[str, str, str, Values]]:
    texts: tuple[tuple[str, str, Callable[[Round], list[str]]], ...] = (
        ("instruction-words", "Words in an instruction", lambda r: [i.instruction for i in r.instructions]),
        ("kept-words", "Words in a kept answer", lambda r: [e.output for e in r.kept]),
        ("dropped-words", "Words in a dropped answer", lambda r: [x.output for x in r.rejected if x.stage == "filter"]),
    )
    for name, title, of in texts:
        values = {r.title: [float(len(str(text).split())) for text in of(r)] for r in run.rounds if of(r)}
        if values:
            yield name, title, "words", values
    similarities = {
        r.title: [float(i.similarity) for i in r.instructions if _is_number(i.similarity)] for r in run.rounds
    }
    if any(similarities.values()):
        yield "similarity", "Similarity of instructions", "ROUGE-L", {w: v for w, v in similarities.items() if v}


def _histogram(name: str, title: str, axis: str, edges: Sequence[float], values: Values) -> Histogram:
    shown = first_and_newest(list(values))
    open_ended = axis == "words"
    return Histogram(
        name,
        title,
        axis,
        tuple(float(edge) for edge in edges),
        tuple(
            (who, tuple(np.histogram([min(v, edges[-1]) if open_ended else v for v in values[who]], edges)[0].tolist()))
            for who in shown
        ),
    )


def _summary(values: Sequence[float]) -> list[float]:
    return [fmean(values), min(values), *(quantile(values, share) for share in SHARES), max(values)]


def _flat(values: Values) -> list[float]:
    return [value for some in values.values() for value in some]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
