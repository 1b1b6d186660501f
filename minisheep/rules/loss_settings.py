"""The settings of ``--loss`` and ``--mix-seeds``: which contradict each other, and what they mean in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def loss_contradictions(settings: Any) -> Iterator[str]:
    """Contradictions between ``--loss`` and what it learns from, in a `config.Settings`."""
    loss, prefer = settings.loss, settings.prefer
    if loss == "sft":
        for flag, name in (("--prefer", "prefer"), ("--preference-beta", "preference_beta")):
            value = getattr(settings, name)
            if value != type(settings).model_fields[name].default:
                yield f"{flag} {value} is for --loss orpo or dpo, and --loss is sft; leave one out"
        return
    given = f"--loss {loss} --prefer {prefer}"
    if loss == "dpo" and settings.strategy == "one-last":
        yield (
            "--loss dpo compares the model with its base, the adapter switched off, and --strategy one-last begins with"
            " the last adapter; use --strategy one-base or --loss orpo"
        )
    if loss == "dpo" and settings.mix_seeds:
        yield f"--loss dpo learns from pairs alone, and the seed tasks of --mix-seeds {settings.mix_seeds:g} have none"
    if prefer != "shown" and settings.answers < 2:
        yield f"{given} compares answers to one instruction, so it needs --answers 2 or more"
    if prefer == "checked" and not settings.constraints:
        yield (
            f"{given} compares answers that keep a constraint with answers that do not, and --constraints is 0; add"
            " --constraints 0.5, or let the judge choose: --prefer judged"
        )
    if prefer == "judged" and not settings.judges:
        yield f"{given} needs a judge, and --assess {settings.assess} with --filter {settings.filter} has none"
    if prefer == "shown" and (not settings.answer_shots or settings.show == "never"):
        yield f"{given} compares with answers that were given without solved tasks, so it needs --answer-shots"


def seeds_text(share: float) -> str:
    """What a share of ``--mix-seeds`` means for a run's data, in a sentence; empty where there is none."""
    if not share:
        return ""
    return (
        f"Up to {share:.0%} of the training examples are seed tasks that people wrote (--mix-seeds), so the model is"
        " not trained on self-made data alone."
    )
