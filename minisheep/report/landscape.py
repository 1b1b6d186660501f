"""Where a run's data lies beside its seed tasks: points in a plane, and how wide they spread.

The paper draws the first two principal components of mean last-layer vectors (figure 4). Such vectors are on disk only
where a density filter measured them, and only of the run's own pairs. Seeds and pairs together can be drawn by their
words: TF-IDF and a truncated SVD (latent semantic analysis), which is said to be a stand-in wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minisheep.records import derive_seed
from minisheep.report.blocks import Block, Charts, Paragraph, Scatter, Section, Table
from minisheep.report.gather import Gathered
from minisheep.report.spread import first_and_newest
from minisheep.rules.diversity import words
from minisheep.rules.prompts import user_text

MOST = 250
"""Points of a round, or of the seeds, drawn by chance where there are more."""
FEWEST = 8
"""Texts below which a plane means nothing."""
DIMENSIONS = 32
"""Of the space of words before its first two principal components are taken; as in `rules.topics`."""
SEEDS = "seed tasks"


@dataclass(frozen=True, slots=True)
class Cloud:
    """Vectors of one group: (n, dimensions)."""

    label: str
    vectors: Any


def section(run: Gathered) -> Section:
    return Section("map", "Where the data lies", tuple(_blocks(run)))


def _blocks(run: Gathered) -> Iterator[Block]:
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

    from minisheep.rules.topics import unit

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
