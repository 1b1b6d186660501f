"""How each instruction is put to the model, and the model's answers.

The paper asks zero-shot (its generate_responses): the instruction and nothing else. Beside that, solved seed tasks may
stand before it, the base may answer in place of the round's model, and an instruction may carry a constraint on its
answer, which a program checks later. What differs from plain asking is recorded (`run.records.Asked`) before the first
answer, so that a run that goes on puts the same questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from minisheep.config import Settings
from minisheep.data.seed_tasks import SeedTask
from minisheep.engines.base import Engine, GenerateRequest, Sampling
from minisheep.rules.constraints import Catalogue, KindStanding, constrained, draw, is_constrained, solved_with
from minisheep.rules.identity import derive_seed
from minisheep.rules.prompts import Frame, answer_prompt, pick_shots, shown_answer_prompt
from minisheep.rules.task_list import Task
from minisheep.rules.templates import Conversation, Prompt
from minisheep.run.records import Asked, Instruction, Response

Wanted = tuple[Instruction, int]
"""An instruction, and which of its answers (from 0)."""
Solved = tuple[str, Task, str]
"""A seed task to show: its id, the task as it is shown, its answer."""
LONGEST_SHOWN = 600
"""Characters that a solved task may have to be shown: short answers teach best, and the context is small."""
ROOM = 4
"""An answer gets one token in `ROOM` of the context, or all that it may take, before tasks are shown beside it."""


def showable(seeds: Sequence[SeedTask]) -> list[SeedTask]:
    """The seed tasks that may be shown with their answers."""
    return [
        seed
        for seed in seeds
        if not seed.held_out and len(seed.instruction + seed.input + seed.output) <= LONGEST_SHOWN
    ]


@dataclass
class Asking:
    """How the instructions of a round are put: to whom, in which frame, after which solved tasks."""

    settings: Settings
    round: int
    frame: Frame
    """Of the model that answers."""
    seeds: Sequence[SeedTask]
    turns: Conversation | None = None
    """How the frame's template writes several turns."""
    catalogue: Catalogue | None = None
    """The constraints of a run that has them."""
    standings: Mapping[str, KindStanding] = field(default_factory=dict)
    _solved: dict[str, list[Solved]] = field(default_factory=dict, init=False)

    @property
    def recorded(self) -> bool:
        """Whether this run records how it asks: runs without the settings that came later keep the records they had."""
        settings = self.settings
        return settings.show == "every" or settings.answer_model == "base" or settings.constraints > 0

    @property
    def one_turn(self) -> bool:
        """Whether the model's template has no place for solved tasks."""
        return self.frame.template is not None and (self.turns is None or self.turns.again is None)

    @property
    def shows(self) -> bool:
        """Whether solved tasks are shown in this round."""
        settings = self.settings
        first = self.round == 1 and self.frame.template is None
        wanted = settings.show == "every" or (settings.show == "first" and first)
        return wanted and settings.answer_shots > 0 and not self.one_turn

    def carries(self, instruction: Instruction) -> bool:
        """Whether the instruction gets a constraint."""
        settings = self.settings
        return settings.constraints > 0 and is_constrained(
            settings.constraints, settings.seed, self.round, "constrained", instruction.id
        )

    def answers(self, instruction: Instruction) -> int:
        """How many answers are drawn. Several need somebody who chooses: the judge, or the program that checks."""
        return self.settings.answers if self.settings.judges or self.carries(instruction) else 1

    def solved(self, kind: str = "") -> list[Solved]:
        """The solved tasks that stand before each instruction with a constraint of this kind (``""``: with none): the
        same for all of a round, so that they are read once."""
        if not self.shows:
            return []
        if kind not in self._solved:
            seeds, settings = showable(self.seeds), self.settings
            if kind:
                assert self.catalogue is not None
                identity = (settings.seed, self.round, "constraint shots", kind)
                shown = solved_with(self.catalogue, kind, self.standings, seeds, settings.answer_shots, *identity)
                self._solved[kind] = [(seed_id, task, answer) for seed_id, task, answer, _ in shown]
            else:
                pool = [(seed.id, (seed.task, seed.output)) for seed in seeds]
                picked = pick_shots(pool, settings.answer_shots, settings.seed, self.round, "answer shots")
                self._solved[kind] = [(seed_id, task, answer) for seed_id, (task, answer) in picked]
        return self._solved[kind]

    def prompt(self, solved: Sequence[Solved], instruction: str, input: str) -> Prompt:
        if not solved:
            return answer_prompt(self.frame, instruction, input)
        turns = self.turns if self.frame.template is not None else None
        return shown_answer_prompt(
            [(task, answer) for _, task, answer in solved], instruction, input, turns, self.frame.words
        )

    def fitting(self, engine: Engine, solved: Sequence[Solved], instruction: str, input: str) -> Sequence[Solved]:
        """As many of the solved tasks as the context holds beside the instruction and its answer, from the first."""
        context = engine.info.context
        # Runs that record nothing show their tasks wherever the engine takes them at all, as they always did.
        room = min(self.settings.answer_max_tokens, context // ROOM) if self.recorded else 1
        for count in range(len(solved), 0, -1):
            if engine.count(self.prompt(solved[:count], instruction, input)) + room <= context:
                return solved[:count]
        return ()

    def shown(self, asked: Asked) -> list[Solved]:
        """The solved tasks of a record."""
        there = {solved[0]: solved for solved in self.solved(asked.constraint.get("kind", ""))}
        return [there[seed_id] for seed_id in asked.shown]


@dataclass(frozen=True, slots=True)
class AskingPlan:
    """How the instructions of a round are put, where that differs from asking them alone."""

    asked: list[Asked]
    cramped: int = 0
    """Instructions before which the context held fewer solved tasks than there were to show."""


def plan(engine: Engine, asking: Asking, instructions: Sequence[Instruction]) -> AskingPlan:
    """Decide how each instruction is put; of `engine` only the size of prompts is asked."""
    settings = asking.settings
    asked: list[Asked] = []
    cramped = 0
    for instruction in instructions:
        text, constraint = instruction.instruction, {}
        if asking.carries(instruction):
            assert asking.catalogue is not None
            drawn = draw(asking.catalogue, asking.standings, settings.seed, asking.round, "constraint", instruction.id)
            text, constraint = constrained(text, drawn.wording), drawn.to_dict()
        solved = asking.solved(constraint.get("kind", ""))
        shown = asking.fitting(engine, solved, text, instruction.input)
        cramped += len(shown) < len(solved)
        if constraint or shown or settings.answer_model == "base":
            seeds = tuple(seed_id for seed_id, _, _ in shown)
            asked.append(Asked(instruction.id, text, instruction.input, constraint, seeds, settings.answer_model))
    return AskingPlan(asked, cramped)


def grouped(wanted: Iterable[Wanted], asked: Mapping[str, Asked]) -> list[list[Wanted]]:
    """The answers to draw in groups that read the same solved tasks, in a fixed order: those without a constraint
    first, then by kind."""
    groups: dict[str, list[Wanted]] = {}
    for instruction, sample in wanted:
        kind = asked[instruction.id].constraint.get("kind", "") if instruction.id in asked else ""
        groups.setdefault(kind, []).append((instruction, sample))
    return [groups[kind] for kind in sorted(groups)]


def respond(
    engine: Engine, asking: Asking, wanted: Sequence[Wanted], asked: Mapping[str, Asked] | None = None
) -> Iterator[Response]:
    """Answers as they finish. The answers to one instruction stand side by side, so that the engine reads their prompt
    once. `asked` are the records of those that are not asked as they stand, by instruction."""
    settings, records = asking.settings, asked or {}
    sampling = Sampling(
        temperature=settings.answer_temperature,
        top_p=settings.answer_top_p,
        max_tokens=settings.answer_max_tokens,
        stop=asking.frame.stop,
    )
    requests: list[GenerateRequest] = []
    prompts: dict[str, Prompt] = {}
    for instruction, sample in wanted:
        if instruction.id not in prompts:
            record, texts = records.get(instruction.id), (instruction.instruction, instruction.input)
            solved: Sequence[Solved] = ()
            if record is not None:
                solved, texts = asking.shown(record), (record.instruction, record.input)
            elif not asking.recorded:
                solved = asking.fitting(engine, asking.solved(), *texts)
            prompts[instruction.id] = asking.prompt(solved, *texts)
        seed = derive_seed(settings.seed, asking.round, "respond", instruction.id, sample)
        requests.append(GenerateRequest(f"{instruction.id}/{sample}", prompts[instruction.id], sampling, seed))
    for completion in engine.generate(requests):
        instruction_id, _, number = completion.id.rpartition("/")
        record = records.get(instruction_id)
        yield Response(
            instruction_id,
            int(number),
            completion.text,
            completion.finish,
            completion.tokens,
            record.id if record is not None else "",
        )
