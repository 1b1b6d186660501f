"""How scores, lengths and similarities are distributed, round beside round. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from minisheep.metrics.diversity import words
from minisheep.metrics.stats import quantile
from minisheep.report.blocks import Block, Charts, HistogramBlock, Paragraph, Scatter, Section, Table
from minisheep.report.gather import Gathered, ReportRound
from minisheep.rules.identity import derive_seed
from minisheep.rules.prompts import user_text
from minisheep.stages.evaluate import EDGES, PERPLEXITY_EDGES

MOST_ROUNDS = 4
"""Rounds in one picture: the first and the newest; tables have all."""
BINS = 20
SHARES = (0.1, 0.5, 0.9)

T = TypeVar("T")
Values = Mapping[str, Sequence[float]]
"""By the name of a round."""


def spread_section(run: Gathered) -> Section:
    return Section("distributions", "Scores, lengths, similarity", tuple(_spread_blocks(run)))


def _spread_blocks(run: Gathered) -> Iterator[Block]:
    tables: list[tuple[str, Values]] = []
    plots: list[HistogramBlock] = []
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
    texts: tuple[tuple[str, str, Callable[[ReportRound], list[str]]], ...] = (
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


def _histogram(name: str, title: str, axis: str, edges: Sequence[float], values: Values) -> HistogramBlock:
    shown = first_and_newest(list(values))
    open_ended = axis == "words"
    return HistogramBlock(
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


# Where a run's data lies beside its seed tasks: points in a plane, and how wide they spread.
#
# The paper draws the first two principal components of mean last-layer vectors (figure 4). Such vectors are on disk
# only where a density filter measured them, and only of the run's own pairs. Seeds and pairs together can be drawn by
# their words: TF-IDF and a truncated SVD (latent semantic analysis), which is said to be a stand-in wherever it is
# shown.
MOST = 250
"""Points of a round, or of the seeds, drawn by chance where there are more."""
FEWEST = 8
"""Texts below which a plane means nothing."""
DIMENSIONS = 32
"""Of the space of words before its first two principal components are taken; as in `metrics.diversity`."""
SEEDS = "seed tasks"


@dataclass(frozen=True, slots=True)
class Cloud:
    """Vectors of one group: (n, dimensions)."""

    label: str
    vectors: Any


def projection_section(run: Gathered) -> Section:
    return Section("map", "Where the data lies", tuple(_projection_blocks(run)))


def _projection_blocks(run: Gathered) -> Iterator[Block]:
    clouds = _by_vectors(run)
    if clouds:
        plane, explained = principal_plane(clouds)
        yield Charts(
            (Scatter("map-vectors", "Pairs by mean last-layer vector", plane),),
            f"The first two principal components of the pairs' mean last-layer vectors ({explained:.0%} of their"
            " variance), as the density filter measured them. Each round's are by the model that wrote it. Seed tasks"
            " have no stored vectors, so they are in the next picture only.",
        )
        yield _spread_table(clouds, "spread, of the first round's")
    else:
        yield Paragraph(
            "No vectors of the model are stored (only the density filters measure them), so there is no picture like"
            " the paper's figure 4."
        )
    by_words = _by_words(run)
    if not by_words:
        yield Paragraph("There are too few texts to place them by their words.")
        return
    plane, explained = principal_plane(by_words)
    seeded = by_words[0].label == SEEDS
    yield Charts(
        (Scatter("map-words", "Instructions by their words", plane),),
        "A stand-in by words, not by the model: TF-IDF and a truncated SVD of the instructions"
        f"{' and the seed tasks' if seeded else ''}, then two principal components ({explained:.0%} of the variance)."
        " Texts that lie together share words; a round that has shrunk to a corner has narrowed.",
    )
    yield _spread_table(by_words, f"spread, of the {SEEDS if seeded else 'first round'}'")


def principal_plane(
    clouds: Sequence[Cloud],
) -> tuple[tuple[tuple[str, tuple[tuple[float, float], ...]], ...], float]:
    """All clouds on the first two principal components of all their vectors, and the share of variance in these.

    Signs are settled (the coordinate that is farthest out is positive), so that the same vectors give the same plane.
    """
    import numpy as np

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
    import numpy as np

    return float(np.sqrt(((vectors - vectors.mean(axis=0)) ** 2).sum(axis=1).mean()))


def _spread_table(clouds: Sequence[Cloud], title: str) -> Table:
    import numpy as np

    first = clouds[0]
    whole = spread(first.vectors)

    def shift(cloud: Cloud) -> float:
        return float(np.linalg.norm(cloud.vectors.mean(axis=0) - first.vectors.mean(axis=0)))

    return Table(
        ("group", "drawn", title, "shift of the centre, in the same unit"),
        tuple(
            (
                cloud.label,
                str(len(cloud.vectors)),
                f"{spread(cloud.vectors) / whole:.0%}" if whole else "-",
                f"{shift(cloud) / whole:.0%}" if whole and cloud is not first else "-",
            )
            for cloud in clouds
        ),
        "In all dimensions, not in the plane. Spread is the root mean square distance from the group's own centre.",
    )


def _by_vectors(run: Gathered) -> list[Cloud]:
    """The stored vectors of each round's pairs; none where no density filter measured any."""
    import numpy as np

    clouds = []
    width = 0
    for r in first_and_newest([r.number for r in run.rounds if r.verdicts]):
        found = {v.response_id: v.raw["vector"] for v in _round(run, r).verdicts if _is_vector(v.raw.get("vector"))}
        width = width or len(next(iter(found.values()), ()))
        same = {id_: vector for id_, vector in found.items() if len(vector) == width}
        if len(same) >= FEWEST:
            vectors = np.asarray([same[id_] for id_ in _drawn(same, r)], dtype=np.float64)
            clouds.append(Cloud(f"round {r}", vectors))
    return clouds


def _by_words(run: Gathered) -> list[Cloud]:
    """Seed tasks (where they are known) and instructions in one space of words, rows of length 1."""
    import numpy as np
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    from minisheep.metrics.diversity import unit

    texts: dict[str, list[str]] = {}
    seeds = {seed.id: user_text(seed.instruction, seed.input) for seed in run.seeds}
    if len(seeds) >= FEWEST:
        texts[SEEDS] = [seeds[id_] for id_ in _drawn(seeds, 0)]
    for r in first_and_newest([r.number for r in run.rounds if r.instructions]):
        found = {i.id: user_text(i.instruction, i.input) for i in _round(run, r).instructions}
        if len(found) >= FEWEST:
            texts[f"round {r}"] = [found[id_] for id_ in _drawn(found, r)]
    if not any(label != SEEDS for label in texts):
        return []
    every = [text for some in texts.values() for text in some]
    try:
        table = TfidfVectorizer(sublinear_tf=True, analyzer=words).fit_transform(every)
    except ValueError:
        # Texts without a single word.
        return []
    room = min(DIMENSIONS, min(table.shape) - 1)
    if room < 2:
        return []
    with np.errstate(invalid="ignore"):
        # Texts that are all the same have no variance to explain.
        space = unit(TruncatedSVD(room, random_state=1).fit_transform(table))
    clouds = []
    for label, some in texts.items():
        clouds.append(Cloud(label, space[: len(some)]))
        space = space[len(some) :]
    return clouds


def _drawn(items: Mapping[str, object], round: int) -> list[str]:
    """At most `MOST` names, by chance that follows from them."""
    return sorted(items, key=lambda id_: derive_seed("report", "map", round, id_))[:MOST]


def _round(run: Gathered, number: int) -> Any:
    return next(r for r in run.rounds if r.number == number)


def _is_vector(found: object) -> bool:
    return isinstance(found, list) and len(found) > 1 and all(isinstance(x, int | float) for x in found)
