"""A gathered run as a whole report: which sections, in which order. What decides comes first, what proves it later."""

from __future__ import annotations

from minisheep.report import (
    advice,
    findings,
    funnel,
    landscape,
    origins,
    outcome,
    samples,
    spread,
    summary,
    training,
    watching,
)
from minisheep.report.blocks import Document
from minisheep.report.gather import Gathered


def document(run: Gathered) -> Document:
    return Document(
        title=summary.title(run),
        lead=summary.lead(run),
        facts=summary.facts(run),
        sections=(
            findings.section(run),
            advice.section(run),
            outcome.section(run),
            funnel.section(run),
            spread.section(run),
            training.section(run),
            landscape.section(run),
            watching.section(run),
            *samples.sections(run),
            origins.section(run),
        ),
    )
