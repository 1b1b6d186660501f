"""What the phases do for a preference loss, on a run folder: draw unshown answers, write a round's pairs, read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from minisheep.phase_report import Report
from minisheep.rules.prompts import user_text
from minisheep.run.events import Note
from minisheep.run.folder import Appender, RunFolder, each_record, read_records, replace_records
from minisheep.run.records import Asked, Check, Example, Instruction, PreferencePair, Response, Verdict
from minisheep.stages.judge import Pair
from minisheep.stages.pairs import pairs_text, preference_pairs, unshown_answers, wants_unshown
from minisheep.stages.respond import Asking
from minisheep.workspace import Workspace, closing, in_batches


def draw_unshown(work: Workspace, asking: Asking, instructions: Sequence[Instruction], report: Report) -> None:
    """The answers without solved tasks that ``--prefer shown`` compares with, where the round's own were shown some.

    Drawn when all of the round's own answers are there, since they bound their lengths.
    """
    folder, settings, round = work.folder.round(asking.round), work.settings, asking.round
    if not wants_unshown(settings, asking.shows):
        return
    shown: dict[str, list[Response]] = {}
    for response in each_record(folder.responses, Response):
        shown.setdefault(response.instruction_id, []).append(response)
    done = {response.instruction_id for response in each_record(folder.unshown, Response)}
    missing = [i for i in instructions if i.id in shown and i.id not in done]
    if not missing:
        return
    engine, texts = work.answer_engine(round, report.ready), {i.id: (i.instruction, i.input) for i in missing}
    # An instruction with a constraint is put with it, or the pair would compare answers to two questions.
    asked = {a.instruction_id: (a.instruction, a.input) for a in each_record(folder.asked, Asked)}
    texts |= {id_: text for id_, text in asked.items() if id_ in texts}
    answers = in_batches(
        lambda some: unshown_answers(engine, settings, asking.frame, round, {i.id: texts[i.id] for i in some}, shown),
        missing,
    )
    with Appender(folder.unshown) as file, closing(answers) as records:
        for count, response in enumerate(records, len(done) + 1):
            file.append(response.to_dict())
            report.show(user_text(*texts[response.instruction_id]), response.text)
            report.step(count, len(done) + len(missing), "answers without solved tasks")


def write_pairs(
    work: Workspace,
    round: int,
    answers: Sequence[Pair],
    verdicts: Sequence[Verdict],
    kept: Sequence[Example],
    report: Report,
) -> dict[str, int]:
    """Write a round's pairs, and tell how many there are; returns that as a count. Nothing for ``--loss sft``.

    answers: those that passed the rules. kept: what the filter kept of them.
    """
    settings, folder = work.settings, work.folder.round(round)
    if settings.loss == "sft":
        return {}
    pairs, missed = preference_pairs(
        settings,
        kept,
        answers,
        {verdict.response_id: verdict for verdict in verdicts},
        {check.response_id: check.passed for check in each_record(folder.checks, Check)},
        read_records(folder.unshown, Response),
        work.wording,
    )
    replace_records(folder.pairs, pairs)
    report.emit(Note(pairs_text(round, len(kept), len(pairs), missed), "info" if pairs else "warning"))
    return {"pairs": len(pairs)}


def read_pairs(folder: RunFolder, rounds: Iterable[int]) -> dict[str, PreferencePair]:
    """The pairs of some rounds, by the id of the kept example."""
    return {pair.parents[0]: pair for r in rounds for pair in read_records(folder.round(r).pairs, PreferencePair)}
