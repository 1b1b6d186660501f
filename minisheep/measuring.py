"""The phase evaluate on a run folder, and the same for a soup: ask one model, write its answers, measure, decide."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minisheep.data.seed_tasks import SeedTask, load_items
from minisheep.engines.base import Completion, Engine
from minisheep.errors import CorruptRunError
from minisheep.pairing import read_pairs
from minisheep.phase_report import Report
from minisheep.rules.ifeval import VerifiableItem
from minisheep.rules.prompts import Frame, user_text
from minisheep.run.decision import decide
from minisheep.run.events import Note, RoundMeasured
from minisheep.run.files import write_atomic, write_json
from minisheep.run.folder import RoundFolder, each_record, read_records
from minisheep.run.reading import read_shaped
from minisheep.run.records import Asked, Check, Draft, Example, Instruction, Rejection, Response
from minisheep.run.typed import DIVERSITY, EXAM, HEALTH, METRICS
from minisheep.stages import evaluate as evaluation
from minisheep.stages.collapse import echo
from minisheep.stages.constrain import constraint_metrics
from minisheep.workspace import Workspace, closing, verdicts_without_raw


def measure_model(
    work: Workspace, folder: RoundFolder, engine_of: Callable[[], Engine], base: dict[str, Any] | None, report: Report
) -> dict[str, Any]:
    """The metrics of one model, whose answers are written to `folder`; `base` are the base model's, None for itself."""
    settings = work.settings
    tasks = evaluation.held_out(work.seeds, settings.eval_tasks)
    answered = tasks[: settings.eval_answers]
    items = evaluation.chosen(load_items(language=settings.language), settings.eval_verifiable)
    total = len(tasks) + len(answered) + len(items)
    prompts = {task.id: user_text(task.instruction, task.input) for task in answered} | {i.id: i.prompt for i in items}
    report.start(total, 0, "tasks")
    engine = engine_of()
    likelihoods = []
    for likelihood in evaluation.likelihoods(engine, work.template, tasks):
        likelihoods.append(likelihood)
        report.step(len(likelihoods), total, "likelihood of held-out answers")
    report.turn(len(tasks))
    answers: list[Completion] = []
    with closing(evaluation.greedy_answers(engine, settings, work.template, answered)) as completions:
        for completion in completions:
            answers.append(completion)
            report.show(prompts[completion.id], completion.text)
            report.step(len(likelihoods) + len(answers), total, "greedy answers")
    checked: list[Completion] = []
    with closing(evaluation.answers(engine, settings, Frame(work.template), items)) as completions:
        for completion in completions:
            checked.append(completion)
            report.show(prompts[completion.id], completion.text)
            report.step(len(likelihoods) + len(answers) + len(checked), total, "verifiable instructions")
    measured = evaluation.model_metrics(likelihoods, answers, base)
    # Runs without constraints store what they always did: `evaluation.with_halves` tells kinds apart for their readers.
    trained = frozenset[str]() if work.catalogue is None else work.catalogue.trained
    measured |= evaluation.metrics(items, checked, base, trained)
    _write_answers(folder, answered, answers)
    _write_verifiable(folder, items, checked)
    report.counts = {"tasks": len(tasks), "answers": len(answers) + len(checked)}
    return measured


def evaluate(work: Workspace, round: int, report: Report) -> None:
    """Measure the base with the round's adapter on held-out tasks; round 0 is the base alone."""
    folder, settings = work.folder.make_round(round), work.settings
    base = read_shaped(work.folder.round(0).metrics, METRICS)["model"] if round else None
    measured = measure_model(work, folder, lambda: work.measuring_engine(round, report.ready), base, report)
    run, done = work.folder, work.folder.read_manifest()["phases"]
    earlier = {r: read_shaped(run.round(r).metrics, METRICS) for r in range(round) if f"round-{r}/evaluate" in done}
    try:
        decision = decide(round, measured, earlier, halves=settings.constraints > 0)
    except KeyError as error:
        what = f"The metrics.json of earlier rounds of {work.folder.path} do not fit together: {error} is missing."
        raise CorruptRunError(what, "Restore them from a copy.") from None
    metrics: dict[str, Any] = {"round": round, "model": measured, "decision": decision}
    if round:
        metrics["data"] = evaluation.data_metrics(
            read_records(folder.drafts, Draft),
            read_records(folder.instructions, Instruction),
            read_records(folder.responses, Response),
            verdicts_without_raw(folder.verdicts),
            read_records(folder.kept, Example),
            each_record(folder.rejected, Rejection),
        )
        shown = (
            ("exam", folder.exam, EXAM),
            ("judge", folder.health, HEALTH),
            ("diversity", folder.diversity, DIVERSITY),
        )
        for name, path, shape in shown:
            if path.exists():
                metrics["data"][name] = read_shaped(path, shape)
        if settings.constraints:
            metrics["data"]["constraints"] = constraint_metrics(
                each_record(folder.asked, Asked), each_record(folder.checks, Check), each_record(folder.kept, Example)
            )
        if settings.loss != "sft":
            metrics["data"]["pairs"] = len(read_pairs(work.folder, [round]))
    write_json(folder.metrics, metrics)
    report.emit(RoundMeasured(round, metrics))
    if decision["text"]:
        report.emit(Note(decision["text"]))
    if alarm := echo(round, measured):
        report.emit(Note(alarm.text, "warning"))
    report.counts |= {"best": decision["best"], "without_gain": decision["without_gain"]}


def _write_answers(folder: RoundFolder, tasks: list[SeedTask], answers: list[Completion]) -> None:
    """The greedy answers, with the tasks that they answer."""
    by_id = {task.id: task for task in tasks}
    _write(folder.answers, [
        {"task": a.id, "instruction": by_id[a.id].instruction, "input": by_id[a.id].input, "answer": a.text,
         "finish": a.finish, "tokens": a.tokens}
        for a in sorted(answers, key=lambda a: a.id)
    ])  # fmt: skip


def _write_verifiable(folder: RoundFolder, items: Sequence[VerifiableItem], answers: Sequence[Completion]) -> None:
    """The answers to verifiable instructions, to read beside the verdicts in the metrics."""
    prompts = {item.id: item.prompt for item in items}
    _write(folder.verifiable, [
        {"item": a.id, "prompt": prompts[a.id], "answer": a.text, "finish": a.finish, "tokens": a.tokens}
        for a in sorted(answers, key=lambda a: a.id)
    ])  # fmt: skip


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    """For people to read: no decision rests on these, so they are plain JSON lines without ids."""
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
