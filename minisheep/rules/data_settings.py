"""Settings of a round's data and of what is learnt from it: which contradict each other, and what they mean in words.

Pure. `settings` are a `config.Settings`, which asks here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def asking_contradictions(settings: Any) -> Iterator[str]:
    """Contradictions in how instructions are put to the model."""
    if settings.show == "every" and not settings.answer_shots:
        yield "--show every shows --answer-shots solved tasks, and that is 0; add --answer-shots 3"
    if settings.show == "never" and settings.answer_shots:
        yield f"--show never shows no solved tasks, and --answer-shots is {settings.answer_shots}; leave one out"
    exchanged = settings.constraint_control == "exchanged"
    if settings.constraints:
        if exchanged and settings.hindsight:
            yield (
                f"--hindsight {settings.hindsight:g} gives answers constraints that they keep, and --constraint-control"
                " exchanged those that they need not keep; leave one out"
            )
        if settings.rules != "on":
            yield (
                f"--constraints {settings.constraints:g} needs --rules on: an answer that repeats its instruction"
                f" keeps many constraints, and --rules {settings.rules} would keep it"
            )
        return
    if exchanged:
        yield "--constraint-control exchanged has no effect without --constraints; add --constraints 0.5"
    if settings.hindsight:
        yield f"--hindsight {settings.hindsight:g} adds to --constraints, and that is 0; add --constraints 0.5"
    if settings.constraint_file:
        yield f"--constraint-file {settings.constraint_file} has no effect without --constraints; add --constraints 0.5"


def asking_rows(settings: Any) -> dict[str, str]:
    """How answers were asked for where that was not zero-shot, for tables about a run's data: what it is, in words."""
    rows = {}
    if settings.answer_shots:
        when = {"first": "a base model's first round", "every": "every round"}[settings.show]
        rows["solved seed tasks shown"] = f"{settings.answer_shots} before each instruction that is answered, in {when}"
    if settings.constraints:
        rows["constraints"] = (
            f"on {settings.constraints:.0%} of the instructions, worded by minisheep or a user; a program checked that"
            " the answer keeps them"
        )
    return rows


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
