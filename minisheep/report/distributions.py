"""How scores, lengths and similarities are distributed in each round, and a map of the data. Pure.

The paper's map (figure 4) draws the first two principal components of mean last-layer vectors. Only a density filter
stores such vectors, and only of the run's own pairs. So a second map places seed tasks and instructions by their words,
with TF-IDF and a truncated SVD (latent semantic analysis); the report calls it a stand-in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from minisheep.data.languages import BY_CHARACTERS
from minisheep.metrics.diversity import unit, words
from minisheep.metrics.stats import quantile
from minisheep.report.blocks import Block, Charts, HistogramBlock, Paragraph, Scatter, Table
from minisheep.report.gather import Gathered, ReportRound
from minisheep.rules.identity import derive_seed
from minisheep.rules.prompts import user_text
from minisheep.rules.text_words import word_count
from minisheep.stages.evaluate import EDGES, PERPLEXITY_EDGES

MOST_ROUNDS = 4
"""Rounds in one picture; tables have all."""
BINS = 20
SHARES = (0.1, 0.5, 0.9)
IN_CHARACTERS = " Words are characters here, since the run's language has no blanks between words."

T = TypeVar("T")
Values = Mapping[str, Sequence[float]]
"""By the name of a round."""


def spread_blocks(run: Gathered) -> Iterator[Block]:
    groups: list[tuple[str, Values]] = []
    plots: list[HistogramBlock] = []
    for judge, scores in _scores(run).items():
        groups.append((f"score by {judge}", scores))
        edges = EDGES.get(judge, PERPLEXITY_EDGES)
        plots.append(_histogram(f"scores-{len(plots)}", f"Scores by {judge}", "score", edges, scores))
    for name, title, axis, values in _others(run):
        groups.append((title, values))
        every = [value for some in values.values() for value in some]
        edges = tuple(x / 20 for x in range(21)) if name == "similarity" else length_edges(every)
        plots.append(_histogram(name, title, axis, edges, values))
    plots = [plot for plot in plots if any(sum(counts) for _, counts in plot.series)]
    if not groups:
        yield Paragraph("There are no instructions yet.")
        return
    if plots:
        yield Charts(
            tuple(plots),
            "Each curve shows shares of one round. A score outside its judge's scale is not drawn. The last bin of a"
            " length holds all longer texts. Similarity is ROUGE-L with the most similar seed task or earlier"
            " instruction." + (IN_CHARACTERS if run.settings and run.settings.language in BY_CHARACTERS else ""),
        )
    yield Table(
        ("what", "round", "number", "mean", "smallest", "10 %", "median", "90 %", "largest"),
        tuple(
            (name, title, f"{len(numbers):,}", *(f"{value:.3g}" for value in _summary(numbers)))
            for name, values in groups
            for title, numbers in values.items()
            if numbers
        ),
        left=2,
    )


def length_edges(values: Sequence[float], bins: int = BINS) -> tuple[float, ...]:
    """Edges in whole steps from 0 to about the 98th percentile, so that a few long texts do not squeeze the rest."""
    top = quantile(values, 0.98) if values else 1.0
    step = max(1, math.ceil(top / bins))
    return tuple(float(step * place) for place in range(bins + 1))


def first_and_newest(rounds: Sequence[T]) -> list[T]:
    """The rounds that one picture shows: with more, colours are hard to distinguish."""
    return list(rounds) if len(rounds) <= MOST_ROUNDS else [rounds[0], *rounds[1 - MOST_ROUNDS :]]


def _scores(run: Gathered) -> dict[str, dict[str, list[float]]]:
    """By judge, since their scales differ; ``auto`` may choose another judge in each round."""
    scores: dict[str, dict[str, list[float]]] = {}
    for r in run.rounds:
        for verdict in r.verdicts:
            if _is_number(verdict.score):
                scores.setdefault(str(verdict.judge), {}).setdefault(r.title, []).append(float(verdict.score or 0.0))
    return scores


def _others(run: Gathered) -> Iterator[tuple[str, str, str, Values]]:
    texts: tuple[tuple[str, str, Callable[[ReportRound], list[str]]], ...] = (
        ("instruction-words", "Words in an instruction", lambda r: [i.instruction for i in r.instructions]),
        ("kept-words", "Words in a kept answer", lambda r: [e.output for e in r.kept]),
        ("dropped-words", "Words in a dropped answer", lambda r: [x.output for x in r.rejected if x.stage == "filter"]),
    )
    for name, title, of in texts:
        values = {r.title: [float(word_count(str(text))) for text in of(r)] for r in run.rounds if of(r)}
        if values:
            yield name, title, "words", values
    similarities = {
        r.title: [float(i.similarity) for i in r.instructions if _is_number(i.similarity)] for r in run.rounds
    }
    if any(similarities.values()):
        yield "similarity", "Similarity of instructions", "ROUGE-L", {w: v for w, v in similarities.items() if v}


def _histogram(name: str, title: str, axis: str, edges: Sequence[float], values: Values) -> HistogramBlock:
    open_ended = axis == "words"
    return HistogramBlock(
        name,
        title,
        axis,
        tuple(float(edge) for edge in edges),
        tuple(
            (r, tuple(np.histogram([min(v, edges[-1]) if open_ended else v for v in values[r]], edges)[0].tolist()))
            for r in first_and_newest(list(values))
        ),
    )


def _summary(values: Sequence[float]) -> list[float]:
    return [fmean(values), min(values), *(quantile(values, share) for share in SHARES), max(values)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


MOST = 250
"""Points of a round or of the seed tasks; of more, this many are drawn at random."""
FEWEST = 8
"""With fewer texts a map means nothing."""
DIMENSIONS = 32
"""Of the space of words, before its first two principal components are taken; as in `metrics.diversity`."""
SEEDS = "seed tasks"


@dataclass(frozen=True, slots=True)
class Cloud:
    """Vectors of one group: (n, dimensions)."""

    label: str
    vectors: Any


def projection_blocks(run: Gathered) -> Iterator[Block]:
    clouds = _by_vectors(run)
    if clouds:
        plane, explained = principal_plane(clouds)
        yield Charts(
            (Scatter("map-vectors", "Pairs by mean last-layer vector", plane),),
            f"The first two principal components of the pairs' mean last-layer vectors ({explained:.0%} of the"
            " variance), as the density filter measured them. The model that wrote a round gave that round's vectors."
            " Seed tasks have no stored vectors, so only the next picture shows them.",
        )
        yield _spread_table(clouds, "spread, relative to the first round")
    else:
        yield Paragraph(
            "No vectors of the model are stored, because only the density filters measure them. So there is no picture"
            " like figure 4 of the paper."
        )
    by_words = _by_words(run)
    if not by_words:
        yield Paragraph("There are too few texts for a map by words.")
        return
    plane, explained = principal_plane(by_words)
    seeded = by_words[0].label == SEEDS
    yield Charts(
        (Scatter("map-words", "Instructions by their words", plane),),
        f"A stand-in by words, not by the model: the instructions{' and the seed tasks' if seeded else ''} by TF-IDF"
        f" and a truncated SVD, then two principal components ({explained:.0%} of the variance). Texts close to each"
        " other share words. A round whose points fill only a corner has become less varied.",
    )
    yield _spread_table(by_words, f"spread, relative to the {SEEDS if seeded else 'first round'}")


def principal_plane(clouds: Sequence[Cloud]) -> tuple[tuple[tuple[str, tuple[tuple[float, float], ...]], ...], float]:
    """All clouds on the first two principal components of all their vectors, and the share of variance in these.

    The coordinate farthest from the centre is made positive, so that the same vectors give the same plane.
    """
    every = np.concatenate([cloud.vectors for cloud in clouds])
    centre = every.mean(axis=0)
    _, sizes, axes = np.linalg.svd(every - centre, full_matrices=False)
    axes = axes[:2]
    flat = (every - centre) @ axes.T
    signs = np.sign(flat[np.abs(flat).argmax(axis=0), [0, 1]])
    axes = axes * np.where(signs, signs, 1)[:, None]
    total = float((sizes**2).sum())
    groups = tuple(
        (cloud.label, tuple((round(float(x), 4), round(float(y), 4)) for x, y in (cloud.vectors - centre) @ axes.T))
        for cloud in clouds
    )
    return groups, float((sizes[:2] ** 2).sum()) / total if total else 0.0


def spread(vectors: Any) -> float:
    """Root mean square distance of vectors (n, dimensions) from their centre."""
    return float(np.sqrt(((vectors - vectors.mean(axis=0)) ** 2).sum(axis=1).mean()))


def _spread_table(clouds: Sequence[Cloud], title: str) -> Table:
    first = clouds[0]
    whole = spread(first.vectors)

    def shift(cloud: Cloud) -> float:
        return float(np.linalg.norm(cloud.vectors.mean(axis=0) - first.vectors.mean(axis=0)))

    return Table(
        ("group", "texts", title, "shift of the centre, same unit"),
        tuple(
            (
                cloud.label,
                str(len(cloud.vectors)),
                f"{spread(cloud.vectors) / whole:.0%}" if whole else "-",
                f"{shift(cloud) / whole:.0%}" if whole and cloud is not first else "-",
            )
            for cloud in clouds
        ),
        "Measured in all dimensions, not in the picture. Spread is the root mean square distance from the group's"
        " centre.",
    )


def _by_vectors(run: Gathered) -> list[Cloud]:
    """The vectors of each round's pairs that a density filter stored."""
    clouds = []
    width = 0
    for r in first_and_newest([r for r in run.rounds if r.verdicts]):
        stored = {v.response_id: v.raw["vector"] for v in r.verdicts if _is_vector(v.raw.get("vector"))}
        width = width or len(next(iter(stored.values()), ()))
        same = {id_: vector for id_, vector in stored.items() if len(vector) == width}
        if len(same) >= FEWEST:
            vectors = np.asarray([same[id_] for id_ in _drawn(same, r.number)], dtype=np.float64)
            clouds.append(Cloud(r.title, vectors))
    return clouds


def _by_words(run: Gathered) -> list[Cloud]:
    """Seed tasks (if known) and instructions in one space of words, as rows of length 1."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts: dict[str, list[str]] = {}
    seeds = {seed.id: user_text(seed.instruction, seed.input) for seed in run.seeds}
    if len(seeds) >= FEWEST:
        texts[SEEDS] = [seeds[id_] for id_ in _drawn(seeds, 0)]
    for r in first_and_newest([r for r in run.rounds if r.instructions]):
        prompts = {i.id: user_text(i.instruction, i.input) for i in r.instructions}
        if len(prompts) >= FEWEST:
            texts[r.title] = [prompts[id_] for id_ in _drawn(prompts, r.number)]
    if not set(texts) - {SEEDS}:
        return []
    every = [text for some in texts.values() for text in some]
    try:
        table = TfidfVectorizer(sublinear_tf=True, analyzer=words).fit_transform(every)
    except ValueError:  # No text holds a word.
        return []
    room = min(DIMENSIONS, min(table.shape) - 1)
    if room < 2:
        return []
    with np.errstate(invalid="ignore"):
        # If all texts are the same, there is no variance to explain.
        space = unit(TruncatedSVD(room, random_state=1).fit_transform(table))
    clouds = []
    for label, some in texts.items():
        clouds.append(Cloud(label, space[: len(some)]))
        space = space[len(some) :]
    return clouds


def _drawn(items: Mapping[str, object], round: int) -> list[str]:
    """At most `MOST` ids at random, the same ones every time."""
    return sorted(items, key=lambda id_: derive_seed("report", "map", round, id_))[:MOST]


def _is_vector(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(x, int | float) for x in value)
