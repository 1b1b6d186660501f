"""What a round asks, and what programs say to the answers: parts of the phases respond and judge, on the run folder."""

from __future__ import annotations

from collections.abc import Sequence

from minisheep.engines.base import Engine
from minisheep.phase_report import Report
from minisheep.rules.constraints import WordedConstraint
from minisheep.rules.prompts import user_text
from minisheep.run.events import Note
from minisheep.run.folder import Appender, RoundFolder, each_record, replace_records
from minisheep.run.records import Asked, Check, Instruction, Response
from minisheep.stages.checking import Checker
from minisheep.stages.constrain import answers_to_check, faulty, never_kept, tally
from minisheep.stages.respond import Asking, plan
from minisheep.workspace import Workspace

NOT_SHOWN = (
    "--answer-shots is for a base model; this model is asked by its template, and no seed tasks are shown. With --show"
    " every they stand before each instruction as earlier turns."
)
ONE_TURN = "The model's template takes one turn, so no solved seed tasks are shown, despite --answer-shots."


def how_asked(
    folder: RoundFolder, engine: Engine, asking: Asking, instructions: Sequence[Instruction], report: Report
) -> dict[str, Asked]:
    """How the round's instructions are put, by instruction; decided and written before the first answer."""
    if not asking.recorded:
        return {}
    if not folder.asked.exists():
        made = plan(engine, asking, instructions)
        if made.cramped:
            text = (
                f"A context of {engine.info.context} tokens holds fewer than {asking.settings.answer_shots} solved"
                f" tasks beside {made.cramped} of {len(instructions)} instructions, so fewer are shown there. A new"
                f" run with --context {2 * engine.info.context} shows more."
            )
            report.emit(Note(text, "warning"))
        if not made.asked:
            return {}
        replace_records(folder.asked, made.asked)
    return {record.instruction_id: record for record in each_record(folder.asked, Asked)}


def checked(work: Workspace, folder: RoundFolder, report: Report) -> dict[str, Check]:
    """A program's verdict on each answer to an instruction with a constraint, by response."""
    assert work.catalogue is not None
    checks = {check.response_id: check for check in each_record(folder.checks, Check)}
    answers = answers_to_check(each_record(folder.asked, Asked), each_record(folder.responses, Response), work.wording)
    with Checker(work.catalogue) as checker, Appender(folder.checks) as file:
        for record, response, text in answers:
            if response.id not in checks:
                constraint = WordedConstraint.from_dict(record.constraint)
                check = Check(
                    response.id,
                    constraint.kind,
                    *checker.check(constraint, user_text(record.instruction, record.input), text),
                )
                file.append(check.to_dict())
                checks[response.id] = check
                report.step(len(checks), len(answers), "constraints checked")
    for sentence in (faulty(checks.values()), never_kept(tally(checks.values()))):
        if sentence:
            report.emit(Note(sentence, "warning"))
    return checks
