"""Each phase on a run folder: read what is there, ask the stage for the rest, append it record by record.

Stages decide, this file moves records between them and the disk. It runs in a worker (or in a test's own process).
"""

from __future__ import annotations

import builtins
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from minisheep.asking import NOT_SHOWN, ONE_TURN, checked, how_asked
from minisheep.errors import CorruptRunError, StarvedError, TrainerFailedError
from minisheep.measuring import evaluate
from minisheep.pairing import draw_unshown, read_pairs, write_pairs
from minisheep.phase_report import Report
from minisheep.rules.prompts import user_text
from minisheep.run import events
from minisheep.run.events import Emit, Note
from minisheep.run.files import write_json
from minisheep.run.folder import Appender, each_record, line_of, read_records, replace_records
from minisheep.run.integrity import mark_lines
from minisheep.run.reading import read_shaped
from minisheep.run.records import Asked, Check, Draft, Example, Instruction, Rejection, Response, Verdict
from minisheep.run.typed import DIVERSITY, TRAINING
from minisheep.stages.checking import Checker
from minisheep.stages.collapse import alarms, rambling
from minisheep.stages.constrain import one_sided
from minisheep.stages.exam import exam_error, examine, failed_warning
from minisheep.stages.filter import by_rules, for_judge, keep_examples, measure, rule_counts
from minisheep.stages.generate import IDLE, Harvest, novelty_index, write_drafts
from minisheep.stages.judge import JudgedText, Pair, findings, judge_health, judge_pairs
from minisheep.stages.respond import grouped
from minisheep.stages.respond import respond as answer
from minisheep.stages.train import rounds_trained_on, starts_from, together, train_job, training_notes
from minisheep.workspace import BATCH, Workspace, closing, fresh, in_batches, read_exam, replay, verdicts_without_raw


def exam(work: Workspace, round: int, report: Report) -> None:
    """Examine the judge of the round before it may judge. Raises `errors.ExamError` if none passes."""
    folder, settings = work.folder.make_round(round), work.settings
    report.start(settings.exam_tasks, 0, "answers")
    if folder.exam.exists():
        result = read_exam(folder.exam)
    else:
        result = examine(
            work.judge_engine(round, report.ready), settings, work.judge_frame(round), work.texts, round, work.seeds,
            lambda done, total: report.step(done, total, "right and corrupted answers"),
        )  # fmt: skip
        write_json(folder.exam, result.to_dict())
    if result.passed:
        report.emit(Note(result.why))
    elif settings.judge != "auto" or settings.force:
        report.emit(Note(failed_warning(result), "warning"))
    else:
        raise exam_error(result)
    report.counts = {"tasks": settings.exam_tasks, "auc": builtins.round(result.auc, 3)}


def generate(work: Workspace, round: int, report: Report) -> None:
    folder = work.folder.make_round(round)
    seeds, settings = work.seeds, work.settings
    known = novelty_index(seeds, work.earlier_instructions(round), work.evaluation_prompts)
    harvest = Harvest(settings, known, wording=work.wording)
    drafts = {draft.index: draft for draft in each_record(folder.drafts, Draft, lambda draft: draft.round == round)}
    made = before = len(drafts)
    ended = 0.0
    written_before = read_records(folder.instructions, Instruction, lambda instruction: instruction.round == round)
    on_disk = replay(harvest, drafts, written_before, read_records(folder.rejected, Rejection))
    with ExitStack() as files:
        draft_file, kept_file, rejected_file = (
            files.enter_context(Appender(path)) for path in (folder.drafts, folder.instructions, folder.rejected)
        )

        def read_ready_drafts() -> None:
            """In order of their numbers, so that the outcome does not depend on which finished first."""
            while harvest.drafts in drafts and not harvest.full:
                # A draft that was read is not needed again, here or on disk.
                kept, rejected = harvest.add(drafts.pop(harvest.drafts))
                kept_file.append(*fresh(kept, on_disk))
                for instruction in kept[-1:]:
                    report.show(user_text(instruction.instruction, instruction.input))
                rejected_file.append(*fresh(rejected, on_disk))

        read_ready_drafts()
        report.start(settings.per_round, len(harvest.kept), "instructions")
        while not (harvest.full or harvest.exhausted):
            ahead = min(harvest.wanted_drafts(), BATCH)
            indices = [i for i in range(harvest.drafts, harvest.drafts + ahead) if i not in drafts]
            engine = work.engine(round - 1, report.ready)
            asked, idle = len(indices), IDLE * min(len(indices), engine.info.slots)
            with closing(
                write_drafts(engine, settings, work.frame(round), work.texts, seeds, round, indices)
            ) as written:
                for draft in written:
                    draft_file.append(draft.to_dict())
                    drafts[draft.index] = draft
                    made += 1
                    read_ready_drafts()
                    detail = f"{len(harvest.rejected)} dropped, {made} drafts"
                    asked -= 1
                    to_come = harvest.drafts_to_come(made, asked, idle)
                    report.step(len(harvest.kept), settings.per_round, detail, (made - before + ended, to_come))
                    if harvest.full:
                        break
            ended += idle
    if not harvest.full:
        _warn_of_shortfall(harvest, report)
    report.counts = {"drafts": harvest.drafts, "instructions": len(harvest.kept), "rejected": len(harvest.rejected)}


def respond(work: Workspace, round: int, report: Report) -> None:
    folder, settings = work.folder.round(round), work.settings
    instructions = read_records(folder.instructions, Instruction)
    ids = {instruction.id for instruction in instructions}
    before = each_record(folder.responses, Response, lambda response: response.instruction_id in ids)
    done = {(response.instruction_id, response.sample) for response in before}
    with ExitStack() as leaving:
        checker = leaving.enter_context(Checker(work.catalogue)) if work.catalogue is not None else None
        asking = work.asking(round, checker.catalogue if checker is not None else None)
        pairs = [(instruction, sample) for instruction in instructions for sample in range(asking.answers(instruction))]
        missing = [(instruction, sample) for instruction, sample in pairs if (instruction.id, sample) not in done]
        report.start(len(pairs), len(done), "answers")
        if round == 1 and settings.answer_shots and not asking.shows:
            report.emit(Note(NOT_SHOWN if settings.show == "first" else ONE_TURN))
        if missing:
            engine = work.answer_engine(round, report.ready)
            asked = how_asked(folder, engine, asking, instructions, report)
            texts = {i.id: user_text(i.instruction, i.input) for i in instructions}
            texts |= {record.instruction_id: user_text(record.instruction, record.input) for record in asked.values()}

            def answers() -> Iterator[Response]:
                for group in grouped(missing, asked):
                    yield from in_batches(lambda some: answer(engine, asking, some, asked), group)

            _append_each(
                answers(), folder.responses, report, len(done), len(pairs),
                lambda response: report.show(texts[response.instruction_id], response.text),
            )  # fmt: skip
    draw_unshown(work, asking, instructions, report)
    # Counted from the file, so that a continued phase counts what it made before.
    tokens = cut = 0
    for response in each_record(folder.responses, Response):
        tokens += response.tokens
        cut += response.finish == "length"
    alarm = rambling(len(pairs), cut, settings.answer_max_tokens)
    if alarm and asking.frame.template is None and not asking.shows:
        report.emit(Note(alarm.text, "warning"))
    report.counts = {"responses": len(pairs), "tokens": tokens}


def judge(work: Workspace, round: int, report: Report) -> None:
    """Check each constraint, then judge each pair, or measure it where a model-only filter decides."""
    folder, settings = work.folder.round(round), work.settings
    instructions, responses = read_records(folder.instructions, Instruction), read_records(folder.responses, Response)
    asked = read_records(folder.asked, Asked)
    candidates = by_rules(instructions, responses, work.wording, settings.rules, asked)
    done, ids = set(), {response.id for response in responses}
    for verdict in each_record(folder.verdicts, Verdict, lambda verdict: verdict.response_id in ids):
        done.add(verdict.response_id)
        report.newest.count([verdict])
    report.start(len(candidates.pairs), len(done), "pairs")
    checks = checked(work, folder, report) if work.catalogue is not None else {}
    judged = for_judge(settings, candidates, checks)
    missing = [pair for pair in judged if pair.response.id not in done]
    if settings.judges:
        engine, frame = work.judge_engine(round, report.ready), work.judge_frame(round)
        chosen = work.judge(round)

        def verdicts(some: list[Pair]) -> Iterator[Verdict]:
            return judge_pairs(engine, chosen, frame, work.texts, [JudgedText.of(pair) for pair in some])
    elif settings.filter != "score":
        engine, frame = work.engine(round - 1, report.ready), work.frame(round)

        def verdicts(some: list[Pair]) -> Iterator[Verdict]:
            return measure(engine, settings, frame, some)
    else:
        missing = []

    if missing:
        before = engine.evaluated
        pairs = {pair.response.id: pair for pair in missing}

        def show(verdict: Verdict) -> None:
            pair = pairs[verdict.response_id]
            report.show(user_text(pair.question, pair.instruction.input), pair.answer, verdict)

        _append_each(in_batches(verdicts, missing), folder.verdicts, report, len(done), len(judged), show)
        if engine.evaluated > before:
            report.counts["tokens_per_pair"] = (engine.evaluated - before) // len(missing)
    if settings.judges:
        health = judge_health(engine, chosen, frame, work.texts, judged, read_records(folder.verdicts, Verdict))
        write_json(folder.health, health)
        for finding in findings(health):
            report.emit(Note(f"The judge of round {round}, {finding}", "warning"))
    scored = len(judged) if settings.judges or settings.filter != "score" else 0
    report.counts |= {"judged": scored, "dropped_by_rules": len(candidates.rejected)}
    if checks:
        report.counts |= {"checked": len(checks), "passed": sum(check.passed for check in checks.values())}


def filter(work: Workspace, round: int, report: Report) -> None:
    folder, settings = work.folder.round(round), work.settings
    responses = read_records(folder.responses, Response)
    report.start(len(responses), 0, "pairs")
    instructions = read_records(folder.instructions, Instruction)
    # Only the model-only filters decide by raw numbers.
    verdicts = (
        verdicts_without_raw(folder.verdicts) if settings.filter == "score" else read_records(folder.verdicts, Verdict)
    )
    asked, checks = read_records(folder.asked, Asked), read_records(folder.checks, Check)
    candidates = by_rules(instructions, responses, work.wording, settings.rules, asked)
    kept, dropped = keep_examples(settings, round, instructions, candidates, verdicts, checks, work.catalogue)
    if len(kept) + len(dropped) != len(responses):
        raise CorruptRunError(
            f"{folder.path} is damaged: {len(kept)} answers are kept and {len(dropped)} dropped, of {len(responses)}.",
            "Take out of its files the lines that are there twice, or restore them from a copy.",
        )
    # The filter may run again with another --keep, so it replaces what it wrote before, and with it an adapter that
    # was just trained on that. What comes out as it was, to mend a damaged file, leaves the adapter alone.
    before = work.folder.read_manifest().get("files", {}).get(f"round-{round}/filter", {}).get("kept.jsonl")
    if before != mark_lines(line_of(example.to_dict()) for example in kept):
        folder.training.unlink(missing_ok=True)
        shutil.rmtree(folder.adapter, ignore_errors=True)
    generated = [r for r in each_record(folder.rejected, Rejection) if r.stage == "generate"]
    replace_records(folder.rejected, [*generated, *dropped])
    replace_records(folder.kept, kept)
    paired = write_pairs(work, round, candidates.pairs, verdicts, kept, report)
    _watch(work, round, instructions, responses, kept, report)
    report.counts = {"kept": len(kept), "dropped": len(dropped), **paired}
    if settings.constraints and (note := one_sided(kept, settings)):
        report.emit(Note(note, "warning"))
    report.step(len(responses), len(responses), f"kept {len(kept)}, dropped {len(dropped)}")


def train(work: Workspace, round: int, report: Report) -> None:
    from minisheep.trainers.choose_trainer import make_adapter_gguf, make_trainer, needs_gpu

    folder, strategy = work.folder.round(round), work.settings.strategy
    name = work.model.trainer or work.settings.trainer
    examples = together([read_records(work.folder.round(r).kept, Example) for r in rounds_trained_on(strategy, round)])
    before = starts_from(strategy, round)
    report.start(0, 0, "steps")
    scratch = work.folder.scratch / f"train-{round}"
    if not folder.training.exists():
        # A trainer that finds its own finished adapter there returns its result at once.
        scratch.mkdir(parents=True, exist_ok=True)
        job = train_job(
            work.settings, work.template, round, examples,
            gguf=work.model.gguf, weights=work.model.weights, output=folder.adapter, scratch=scratch,
            start=work.folder.round(before).adapter if before else None, needs_gpu=needs_gpu(work.settings.trainer),
            pairs=read_pairs(work.folder, rounds_trained_on(strategy, round)), seeds=work.seeds,
        )  # fmt: skip
        for note in training_notes(work.settings, round, job, len(examples)):
            report.emit(Note(note))
        trainer = make_trainer(name)

        def on_progress(event: Any) -> None:
            events.point("train")
            report.train_step(event)

        try:
            result = trainer.train(job, on_progress, report.should_stop)
        except TrainerFailedError as error:
            raise work.give_up_trainer(error) from error
        write_json(folder.training, result.to_dict())
    make_adapter_gguf(name, folder.adapter, work.model.gguf, folder.adapter_gguf)
    shutil.rmtree(scratch, ignore_errors=True)
    counts = read_shaped(folder.training, TRAINING)
    report.counts = {
        name: counts[name]
        for name in ("steps", "examples", "pairs", "tokens", "first_loss", "last_loss")
        if name in counts
    }


PHASES: dict[str, Callable[[Workspace, int, Report], None]] = {
    "exam": exam,
    "generate": generate,
    "respond": respond,
    "judge": judge,
    "filter": filter,
    "train": train,
    "evaluate": evaluate,
}


def do(work: Workspace, round: int, phase: str, emit: Emit, should_stop: Callable[[], bool]) -> None:
    """One phase, from its first event to its last. Raises `errors.MinisheepError` for what a user can act on."""
    report = Report(round, phase, emit, should_stop, work.folder.pause.exists, lambda: work.loaded)
    with report.looking():
        PHASES[phase](work, round, report)
    report.finish()
    if work.settings.engine != "fake":
        report.keep_time(work.settings, work.model.gguf_sha256)


def _watch(
    work: Workspace,
    round: int,
    instructions: Sequence[Instruction],
    responses: Sequence[Response],
    kept: Sequence[Example],
    report: Report,
) -> None:
    """Measure the variety of the round's data, and warn where it has collapsed."""
    # Topics of the seeds need scikit-learn, which other phases do without.
    from minisheep.stages.collapse import watch

    folder = work.folder.round(round)
    earlier = [work.folder.round(r) for r in range(1, round)]
    outputs = (example.output for other in earlier for example in each_record(other.kept, Example))
    rejected = each_record(folder.rejected, Rejection)
    write_json(folder.diversity, watch(instructions, responses, kept, rejected, work.seeds, outputs))
    diversities = {r: read_shaped(work.folder.round(r).diversity, DIVERSITY) for r in range(1, round + 1)}
    for alarm in alarms(diversities):
        report.emit(Note(alarm.text, "warning"))


def _append_each(
    items: Iterator[Any], path: Path, report: Report, done: int, total: int, show: Callable[[Any], None]
) -> None:
    """Append each record as it comes, and report it."""
    with Appender(path) as file, closing(items) as records:
        for count, record in enumerate(records, done + 1):
            file.append(record.to_dict())
            show(record)
            report.step(count, total)


def _warn_of_shortfall(harvest: Harvest, report: Report) -> None:
    message = (
        f"{harvest.drafts} drafts held only {len(harvest.kept)} of {harvest.settings.per_round} new instructions"
        f" (dropped: {rule_counts(harvest.rejected, 5) or 'none'})."
    )
    if not harvest.kept:
        raise StarvedError(message, "Start a new run with a higher --generate-temperature or another --model.")
    report.emit(Note(f"{message} The round goes on with these.", "warning"))
