"""The evaluate phase on a run folder: a model is asked, and what it says becomes a round's metrics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minisheep.data.verifiable import load_items
from minisheep.engines.base import Completion
from minisheep.events import Note, RoundMeasured
from minisheep.machine.files import read_json, write_atomic, write_json
from minisheep.progress import Report
from minisheep.records import Draft, Example, Instruction, Rejection, Response
from minisheep.resume import closing, verdicts_without_raw
from minisheep.rules.prompts import Frame, user_text
from minisheep.rules.verify.items import Item
from minisheep.stages import evaluate as evaluation
from minisheep.stages import verifiable
from minisheep.stages.alarms import echo
from minisheep.stages.decide import decide
from minisheep.store import RoundFolder, RunFolder, each_record, read_records
from minisheep.workspace import Workspace


def evaluate(work: Workspace, round: int, report: Report) -> None:
    """Measures base + the round's adapter; round 0 is the base."""
    folder = work.folder.make_round(round)
    settings = work.settings
    tasks = evaluation.held_out(work.seeds, settings.eval_tasks)
    asked = tasks[: settings.eval_answers]
    items = verifiable.chosen(load_items(), settings.eval_verifiable)
    total = len(tasks) + len(asked) + len(items)
    prompts = {task.id: user_text(task.instruction, task.input) for task in asked} | {i.id: i.prompt for i in items}
    report.start(total, 0, "tasks")
    engine = work.measuring_engine(round, report.ready)
    likelihoods = []
    for found in evaluation.likelihoods(engine, work.template, tasks):
        likelihoods.append(found)
        report.step(len(likelihoods), total, "likelihood of held-out answers")
    answers: list[Completion] = []
    with closing(evaluation.greedy_answers(engine, settings, work.template, asked)) as completions:
        for completion in completions:
            answers.append(completion)
            report.show(prompts[completion.id], completion.text)
            report.step(len(likelihoods) + len(answers), total, "greedy answers")
    checked: list[Completion] = []
    with closing(verifiable.answers(engine, settings, Frame(work.template), items)) as completions:
        for completion in completions:
            checked.append(completion)
            report.show(prompts[completion.id], completion.text)
            report.step(len(likelihoods) + len(answers) + len(checked), total, "verifiable instructions")
    base = read_json(work.folder.round(0).metrics)["model"] if round else None
    measured = evaluation.model_metrics(likelihoods, answers, base) | verifiable.metrics(items, checked, base)
    earlier = {r: read_json(work.folder.round(r).metrics) for r in measured_before(work.folder, round)}
    decision = decide(round, measured, earlier)
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
        for name, path in (("exam", folder.exam), ("judge", folder.health), ("diversity", folder.diversity)):
            if path.exists():
                metrics["data"][name] = read_json(path)
    _write_answers(folder, work, asked, answers)
    _write_verifiable(folder, items, checked)
    write_json(folder.metrics, metrics)
    report.emit(RoundMeasured(round, metrics))
    if decision["text"]:
        report.emit(Note(decision["text"]))
    if alarm := echo(round, measured):
        report.emit(Note(alarm.text, "warning"))
    report.counts = {
        "tasks": len(tasks),
        "answers": len(answers) + len(checked),
        "best": decision["best"],
        "without_gain": decision["without_gain"],
    }


def measured_before(folder: RunFolder, round: int) -> list[int]:
    """The rounds before `round` that have metrics, the base (0) among them."""
    return [r for r in range(round) if folder.round(r).metrics.exists()]


def _write_answers(folder: RoundFolder, work: Workspace, asked: list[Any], answers: list[Completion]) -> None:
    """The greedy answers, with the tasks that they answer."""
    tasks = {task.id: task for task in asked}
    _write(folder.answers, [
        {"task": a.id, "instruction": tasks[a.id].instruction, "input": tasks[a.id].input, "answer": a.text,
         "finish": a.finish, "tokens": a.tokens}
        for a in sorted(answers, key=lambda a: a.id)
    ])  # fmt: skip


def _write_verifiable(folder: RoundFolder, items: Sequence[Item], answers: Sequence[Completion]) -> None:
    """The answers to verifiable instructions, to read beside the verdicts in the metrics."""
    prompts = {item.id: item.prompt for item in items}
    _write(folder.verifiable, [
        {"item": a.id, "prompt": prompts[a.id], "answer": a.text, "finish": a.finish, "tokens": a.tokens}
        for a in sorted(answers, key=lambda a: a.id)
    ])  # fmt: skip


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    """To read: no decision rests on these, so they are plain JSON lines without ids."""
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
