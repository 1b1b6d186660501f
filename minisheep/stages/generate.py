"""The model writes its own instructions (the paper's generate_prompts), five seed tasks in context.

Few-shot prompts are numbered 0, 1, 2, ... and everything about one follows from its number. Their completions (drafts)
come back in any order but are read in order, so what is kept depends neither on which finished first nor on whether the
run was interrupted in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from minisheep.config import Settings
from minisheep.data.seed_tasks import SeedTask
from minisheep.engines.base import Engine, GenerateRequest, Sampling
from minisheep.rules.heuristics import instruction_fault
from minisheep.rules.identity import derive_seed
from minisheep.rules.prompts import Frame, pick_shots, task_list_prompt, task_list_stop, user_text
from minisheep.rules.similarity import NoveltyIndex
from minisheep.rules.task_list import parse_task_list
from minisheep.rules.wording import ENGLISH, Wording
from minisheep.run.records import Draft, Instruction, Rejection

EXPECTED_PER_DRAFT = 3.0
"""Instructions kept of one draft, until there are drafts to count; only sizes the first batch."""
COUNTED = 4
"""Drafts by which those to come are foretold."""
IDLE = 0.5
"""Drafts for each slot in use that could be written while a batch of them ends."""
FRUITLESS_DRAFTS = 60
"""Drafts more than expected after which a round without enough instructions gives up."""


@dataclass
class Harvest:
    """Reads drafts in order and decides about every task in them."""

    settings: Settings
    novelty: NoveltyIndex
    """Seeds and everything kept in earlier rounds; what is kept here is added."""
    kept: list[Instruction] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    drafts: int = 0
    wording: Wording = ENGLISH
    """Of the run's language."""

    @property
    def full(self) -> bool:
        return len(self.kept) >= self.settings.per_round

    def add(self, draft: Draft) -> tuple[list[Instruction], list[Rejection]]:
        """Decide about the tasks of the next draft, as long as the round is not full."""
        self.drafts += 1
        kept: list[Instruction] = []
        rejected: list[Rejection] = []
        tasks = parse_task_list(draft.text, self.settings.shots + 1, draft.finish == "length", self.wording)
        for position, task in enumerate(tasks):
            if len(self.kept) + len(kept) >= self.settings.per_round:
                break
            text = user_text(task.instruction, task.input)
            fault = None
            if self.settings.rules != "off":
                fault = instruction_fault(task.instruction, task.input, self.wording)
            similarity = 0.0
            if fault is None:
                similar, similarity, _ = self.novelty.too_similar(text, self.settings.novelty)
                if similar:
                    fault = ("too_similar", f"ROUGE-L {similarity:.2f} with an earlier one")
            if fault is None:
                self.novelty.add(text)
                kept.append(
                    Instruction(draft.round, draft.id, position, task.instruction, task.input, round(similarity, 4))
                )
            else:
                rejected.append(
                    Rejection("generate", *fault, draft.id, position, task.instruction, task.input, output="")
                )
        if not tasks:
            rejected.append(Rejection("generate", "no_task", "no task could be read", draft.id, 0, "", "", draft.text))
        self.kept += kept
        self.rejected += rejected
        return kept, rejected

    def wanted_drafts(self) -> int:
        """About how many more drafts will fill the round, by the yield of those read so far."""
        rate = len(self.kept) / self.drafts if self.drafts >= COUNTED else EXPECTED_PER_DRAFT
        missing = self.settings.per_round - len(self.kept)
        return max(1, math.ceil(missing / max(rate, 0.25)))

    def drafts_to_come(self, made: int, asked: int, idle: float) -> float | None:
        """About how many drafts are still to be written, by the time that they take. `made` are done, and `asked` more
        are begun; then others are, and the last of each such batch leave slots without work for the time of `idle`
        drafts. None while too few were read to say so."""
        if self.drafts < COUNTED:
            return None
        missing = 0 if self.full else max(1, self.drafts + self.wanted_drafts() - made)
        return float(missing) if missing <= asked else missing + 2 * idle

    @property
    def exhausted(self) -> bool:
        """Whether to give up: far more drafts than a useful model needs."""
        return self.drafts >= FRUITLESS_DRAFTS + 2 * self.settings.per_round


def novelty_index(
    seeds: Sequence[SeedTask], earlier: Iterable[Instruction], reserved: Iterable[str] = ()
) -> NoveltyIndex:
    """The index of all that a new instruction must differ from. It holds the held-out seeds and the evaluation's other
    prompts (`reserved`) too, since a copy would leak them."""
    index = NoveltyIndex(reserved)
    for seed in seeds:
        index.add(user_text(seed.instruction, seed.input))
    for instruction in earlier:
        index.add(user_text(instruction.instruction, instruction.input))
    return index


def draft_request(
    settings: Settings, frame: Frame, texts: Mapping[str, str], seeds: Sequence[SeedTask], round: int, index: int
) -> tuple[GenerateRequest, tuple[str, ...]]:
    """The few-shot request number `index` of a round, and the ids of the seed tasks that it shows.

    `samples_per_prompt` neighbours show the same tasks, so that the engine computes their prompt once.
    """
    number = index // settings.samples_per_prompt
    shown = [(s.id, s.task) for s in seeds if not s.held_out]
    shots = pick_shots(shown, settings.shots, settings.seed, round, "shots", number)
    request = GenerateRequest(
        id=f"generate-{round}-{index}",
        prompt=task_list_prompt(frame, texts, [task for _, task in shots]),
        sampling=Sampling(
            temperature=settings.generate_temperature,
            top_p=settings.generate_top_p,
            max_tokens=settings.generate_max_tokens,
            stop=task_list_stop(len(shots)),
        ),
        seed=derive_seed(settings.seed, round, "generate", index),
    )
    return request, tuple(id_ for id_, _ in shots)


def write_drafts(
    engine: Engine,
    settings: Settings,
    frame: Frame,
    texts: Mapping[str, str],
    seeds: Sequence[SeedTask],
    round: int,
    indices: Sequence[int],
) -> Iterator[Draft]:
    """The drafts number `indices`, as they finish."""
    requests, shown = [], {}
    for index in indices:
        request, ids = draft_request(settings, frame, texts, seeds, round, index)
        requests.append(request)
        shown[request.id] = (index, ids)
    for completion in engine.generate(requests):
        index, ids = shown[completion.id]
        yield Draft(round, index, ids, completion.text, completion.finish)
