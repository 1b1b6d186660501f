"""The judge's exam before a round: can it tell right answers of seed tasks from the same answers spoiled?

Seed tasks that are not held out are drawn by identity and split in two halves. The blend is fitted on one half; every
judge is examined on the other, which nothing was fitted on. Without such an exam a threshold on the grades of a small
model keeps chance, and pure likelihood keeps echoes. The best judge that passes grades the round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from minisheep.config import GRADED, MIN_EXAM, Settings
from minisheep.data.seed_tasks import SeedTask
from minisheep.engines.base import Engine
from minisheep.errors import ExamError
from minisheep.metrics.stats import auc
from minisheep.rules.corrupt import KINDS, ExamTask, corrupted
from minisheep.rules.evidence import Blend, Likelihoods, evidence, fit
from minisheep.rules.identity import derive_seed, six_decimals
from minisheep.rules.prompts import Frame
from minisheep.stages.judge import SIDES, Judge, JudgedText, judge_pairs, likelihoods, verdict_by_likelihood

Score = float | None


@dataclass(frozen=True, slots=True)
class Mark:
    """AUC: the probability that a right answer scores above a spoiled one, ties counting half; 0.5 is a coin."""

    auc: float
    se: float
    """Standard error (`auc_error`)."""
    kinds: dict[str, float]
    """AUC against each kind of spoiled answer alone."""
    kinds_se: dict[str, float]
    passes: bool

    @property
    def worst(self) -> str:
        """The kind that the judge sees least."""
        return min(self.kinds, key=lambda kind: self.kinds[kind])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in type(self).__slots__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `to_dict` wrote. KeyError where something is missing."""
        return cls(*(data[name] for name in cls.__slots__))


def mark(
    right: Sequence[Score], spoiled: Mapping[str, Sequence[Score]], least: float = 0.0, least_kind: float = 0.0
) -> Mark:
    """The mark of a judge that gave these scores. None, an answer that it could not score, counts as the lowest.

    The judge passes with an AUC of at least `least` over all and, for every kind, one of at least `least_kind` within
    one standard error. So a kind that it cannot see (0.5) does not fail it by bad luck, one that it likes better than
    right answers does. ValueError where there is nothing right or nothing spoiled.
    """
    good = _ranked(right)
    bad = {kind: _ranked(scores) for kind, scores in spoiled.items() if scores}
    every = [score for scores in bad.values() for score in scores]
    whole = auc(good, every)
    kinds = {kind: auc(good, scores) for kind, scores in bad.items()}
    errors = {kind: auc_error(value, len(good), len(bad[kind])) for kind, value in kinds.items()}
    return Mark(
        six_decimals(whole),
        six_decimals(auc_error(whole, len(good), len(every))),
        {kind: six_decimals(value) for kind, value in kinds.items()},
        {kind: six_decimals(error) for kind, error in errors.items()},
        whole >= least and all(value + errors[kind] >= least_kind for kind, value in kinds.items()),
    )


def auc_error(value: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC (Hanley and McNeil 1982, equation 1)."""
    if not positives or not negatives:
        raise ValueError("AUC needs positives and negatives")
    both_above, above_both = value / (2 - value), 2 * value**2 / (1 + value)
    variance = (
        value * (1 - value) + (positives - 1) * (both_above - value**2) + (negatives - 1) * (above_both - value**2)
    ) / (positives * negatives)
    return math.sqrt(max(0.0, variance))


def choose_judge(marks: Mapping[str, Mark]) -> str:
    """The judge of the highest AUC among those that pass or, if none does, among all; ties go to the first named."""
    passed = {name: mark for name, mark in marks.items() if mark.passes} or marks
    return max(passed, key=lambda name: passed[name].auc)


def sentence(marks: Mapping[str, Mark], least: float, least_kind: float = 0.0) -> str:
    """The marks in words, those that passed first and the best first: ``blend passes with AUC 0.93 (...); ...``."""
    ranked = sorted(marks.items(), key=lambda item: (not item[1].passes, -item[1].auc))
    return "; ".join(_in_words(name, mark, least, least_kind) for name, mark in ranked)


def _in_words(name: str, mark: Mark, least: float, least_kind: float) -> str:
    weakest = f"{mark.worst} {mark.kinds[mark.worst]:.2f}"
    if mark.passes and mark.kinds[mark.worst] < least_kind:
        weakest += f" ± {mark.kinds_se[mark.worst]:.2f}, so {least_kind:g} is within its error"
    if mark.passes:
        return f"{name} passes with AUC {mark.auc:.2f} (worst kind: {weakest})"
    why = "" if mark.auc < least else f" since it does not see every kind ({weakest})"
    return f"{name} fails with AUC {mark.auc:.2f}{why}"


def _ranked(scores: Sequence[Score]) -> list[float]:
    return [-math.inf if score is None else score for score in scores]


CANDIDATES = ("logits", "pmi", "backward", "blend")
"""The judges that take the exam for ``--judge auto``."""
LONGEST = 1200
"""Characters of instruction, input and answer together; longer tasks take time and show no more."""


@dataclass(frozen=True, slots=True)
class Exam:
    """The result of an exam; ``round-N/exam.json``."""

    round: int
    tasks: int
    """Seed tasks in both halves."""
    right: int
    """Right answers that the judges are marked on."""
    spoiled: dict[str, int]
    """Spoiled ones, by kind."""
    least_auc: float
    least_kind: float
    """What a judge must reach over all, and for each kind."""
    judges: dict[str, Mark]
    chosen: str
    """The best that passed; the best of all where none did."""
    why: str
    """The marks in one sentence."""
    blend: Blend | None
    """The weights of the blend that was examined; None where it was not."""

    @property
    def passed(self) -> bool:
        return self.judges[self.chosen].passes

    @property
    def auc(self) -> float:
        """Of the judge that was chosen."""
        return self.judges[self.chosen].auc

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        plain = {name: getattr(self, name) for name in type(self).__slots__}
        return plain | {
            "judges": {name: mark.to_dict() for name, mark in self.judges.items()},
            "passed": self.passed,
            "blend": self.blend.to_dict() if self.blend else None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `to_dict` wrote. KeyError where something is missing, the mark of the chosen judge too."""
        values = {name: data[name] for name in cls.__slots__}
        values["judges"] = {name: Mark.from_dict(mark) for name, mark in data["judges"].items()}
        if data["chosen"] not in data["judges"]:
            raise KeyError(data["chosen"])
        values["blend"] = Blend.from_dict(data["blend"]) if data["blend"] else None
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Paper:
    """The answers to one half of the tasks: the right ones, and by kind the spoiled ones."""

    right: list[JudgedText]
    spoiled: dict[str, list[JudgedText]]

    @property
    def items(self) -> list[JudgedText]:
        # A task's answers are neighbours, so that the engine computes what they share once.
        return sorted((*self.right, *(item for some in self.spoiled.values() for item in some)), key=lambda i: i.id)


def examine(
    engine: Engine,
    settings: Settings,
    frame: Frame,
    texts: Mapping[str, str],
    round: int,
    seeds: Sequence[SeedTask],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exam:
    """The exam of the judge of the settings, or of all `CANDIDATES` for ``auto``.

    `on_progress` is called with the number of answers read so far and in all. Raises `errors.ExamError` where there
    are too few seed tasks.
    """
    names = CANDIDATES if settings.judge == "auto" else (settings.judge,)
    tasks = _tasks(settings, round, seeds)
    groups = frame.words.counterparts
    fitting, marked = (_paper(tasks[half::2], settings.seed, round, groups) for half in (0, 1))
    by_likelihood = [name for name in names if name not in GRADED]
    by_grade = [name for name in names if name in GRADED]
    read = (fitting.items if "blend" in names else []) + marked.items if by_likelihood else []
    # Answers to one task stand together, so that the engine computes what they share once.
    read = sorted(read, key=lambda item: (item.instruction, item.input))
    done, total = 0, len(read) + len(by_grade) * len(marked.items)

    def counted(results: Iterator[Any]) -> Iterator[Any]:
        nonlocal done
        for result in results:
            done += 1
            on_progress(done, total)
            yield result

    sides = tuple(dict.fromkeys(side for name in by_likelihood for side in SIDES[name]))
    logs_of = {item.id: logs for item, logs in counted(likelihoods(engine, frame, read, sides))} if read else {}
    blend = _fitted(fitting, logs_of) if "blend" in names else None
    marks: dict[str, Mark] = {}
    for name in names:
        judge = Judge(name, settings.criteria, settings.judge_prompt, settings.seed, round, blend)
        if name in GRADED:
            verdicts = {v.response_id: v for v in counted(judge_pairs(engine, judge, frame, texts, marked.items))}
        else:
            verdicts = {item.id: verdict_by_likelihood(judge, item, logs_of[item.id]) for item in marked.items}
        scores = {kind: [verdicts[item.id].score for item in some] for kind, some in marked.spoiled.items()}
        right = [verdicts[item.id].score for item in marked.right]
        marks[name] = mark(right, scores, settings.exam_auc, settings.exam_kind)
    counts = {kind: len(some) for kind, some in marked.spoiled.items()}
    why = (
        f"The judge's exam, {len(marked.right)} right and {sum(counts.values())} spoiled answers:"
        f" {sentence(marks, settings.exam_auc, settings.exam_kind)}."
    )
    limits = settings.exam_auc, settings.exam_kind
    return Exam(round, len(tasks), len(marked.right), counts, *limits, marks, choose_judge(marks), why, blend)


def judge_for(settings: Settings, round: int, exam: Exam | None) -> Judge:
    """The judge of a round: the exam's choice or, without an exam, the one that the settings name."""
    name = exam.chosen if exam else settings.judge
    blend = exam.blend if exam and name == "blend" else None
    return Judge(name, settings.criteria, settings.judge_prompt, settings.seed, round, blend)


def exam_error(exam: Exam) -> ExamError:
    """Why a round does not begin: no judge passed, and the settings name none."""
    return ExamError(
        f"No judge passed the exam of round {exam.round}, so it would keep pairs by chance. {exam.why} {_needs(exam)}"
        " Everything before this round is safe.",
        f"Add --force to go on here with {exam.chosen}. In a new run, a larger --model judges better, --judge NAME only"
        " warns about that judge, and --answers 4 lets answers to the same instruction compete.",
    )


def failed_warning(exam: Exam) -> str:
    """For a run that goes on with a judge that failed."""
    return (
        f"The judge {exam.chosen} failed its exam, so its choice may be no better than chance. {exam.why}"
        f" {_needs(exam)}"
    )


def _needs(exam: Exam) -> str:
    return (
        f"A judge needs {exam.least_auc:g} over all and, within chance, {exam.least_kind:g} for every kind of spoiled"
        " answer (0.5 is a coin)."
    )


def _tasks(settings: Settings, round: int, seeds: Sequence[SeedTask]) -> list[SeedTask]:
    """The tasks of a round's exam, chosen by identity and not by the order of `seeds`."""
    suitable = [
        seed
        for seed in seeds
        if not seed.held_out and len(seed.instruction) + len(seed.input) + len(seed.output) <= LONGEST
    ]
    tasks = sorted(suitable, key=lambda seed: derive_seed(settings.seed, round, "exam", seed.id))
    tasks = tasks[: settings.exam_tasks]
    needed = MIN_EXAM if settings.judge == "auto" else 4
    if len(tasks) < needed:
        raise ExamError(
            f"The judge's exam needs {needed} seed tasks, and only {len(tasks)} will do (not held out, at most"
            f" {LONGEST} characters). Nothing of round {round} was made.",
            "In a new run, give more --seeds, or --judge NAME --exam-tasks 0 for no exam.",
        )
    return tasks


def _paper(tasks: Sequence[SeedTask], seed: int, round: int, groups: Sequence[str]) -> Paper:
    paper = Paper([], {kind: [] for kind in KINDS})
    known = {task.id: ExamTask(task.instruction, task.input, task.output) for task in tasks}
    for task in tasks:
        paper.right.append(JudgedText(f"{task.id}/right", task.instruction, task.input, task.output))
        others = [other for id_, other in known.items() if id_ != task.id]
        for kind in KINDS:
            chance = derive_seed(seed, round, "spoil", kind, task.id)
            answer = corrupted(kind, known[task.id], others, chance, groups)
            if answer is not None:
                paper.spoiled[kind].append(JudgedText(f"{task.id}/{kind}", task.instruction, task.input, answer))
    return paper


def _fitted(paper: Paper, logs: Mapping[str, Likelihoods]) -> Blend:
    def signs(items: Sequence[JudgedText]) -> list[dict[str, float]]:
        rows = [evidence(item.instruction, item.input, item.answer, logs[item.id]) for item in items]
        return [row for row in rows if row is not None]

    return fit(signs(paper.right), {kind: signs(items) for kind, items in paper.spoiled.items()})
