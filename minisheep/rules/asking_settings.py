"""Settings of how instructions are put to the model that contradict each other, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class AskingSettings(Protocol):
    """Those of `config.Settings` that are looked at."""

    @property
    def show(self) -> str: ...
    @property
    def answer_shots(self) -> int: ...
    @property
    def constraints(self) -> float: ...
    @property
    def constraint_file(self) -> str: ...
    @property
    def constraint_control(self) -> str: ...
    @property
    def hindsight(self) -> float: ...
    @property
    def rules(self) -> str: ...


def asking_contradictions(settings: AskingSettings) -> Iterator[str]:
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


def asking_rows(settings: AskingSettings) -> dict[str, str]:
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
