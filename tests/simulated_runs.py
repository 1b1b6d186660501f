"""Runs as their events would tell them, with batches, loading, dropped drafts, uneven records and pauses: for the time
left, which can only be judged by what then happens."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from minisheep import config
from minisheep.rules.similarity import NoveltyIndex
from minisheep.run import events
from minisheep.run.events import Event, Timed
from minisheep.run.records import Instruction
from minisheep.run.time_left import Known, Outlook, profile_of, share_of, share_of_time
from minisheep.stages.generate import IDLE, Harvest

INSTRUCTION = Instruction(1, "draft", 0, "Say when.", "", 0.0)
ROUND = ("exam", "generate", "respond", "judge", "filter", "train", "evaluate")
START = 1_800_000_000.0


@dataclass
class Simulated:
    """A run of `rounds` rounds on a machine that does a record's tokens at `speed`, `slots` sequences at once."""

    seed: int
    rounds: int = 2
    slots: int = 16
    amount: int = 120
    """Records of a phase."""
    speed: float = 1.0
    drift: float = 1.15
    """Largest factor between what a phase takes in two rounds."""
    pauses: bool = False
    """Whether each phase is paused in its middle."""
    events: list[Timed] = field(default_factory=list)
    ends: dict[tuple[int, str], tuple[float, float]] = field(default_factory=dict)
    """When each phase began and ended."""
    waited: list[tuple[float, float]] = field(default_factory=list)
    """Begin and end of each pause."""
    every: dict[tuple[int, str], Known] = field(default_factory=dict)
    times: dict[str, Known] = field(default_factory=dict)
    """What each phase took the last time, as a worker would keep it."""

    @property
    def outlook(self) -> Outlook:
        later = ((number, name) for number in range(1, self.rounds + 1) for name in ROUND)
        return Outlook(((0, "evaluate"), *later))

    def run(self) -> Simulated:
        self._chance, self._now = random.Random(self.seed), START
        self._say(events.RunStarted("runs/simulated", "none", self.rounds, "llamacpp", "peft"))
        for round, phase in self.outlook.plan:
            self._phase(round, phase)
        self._say(events.RunFinished("runs/simulated", self.rounds, self._now - START, 0))
        return self

    def left(self, at: float, until: float) -> float:
        """Seconds of work from `at` to `until`."""
        return until - at - sum(max(0.0, min(until, end) - max(at, begin)) for begin, end in self.waited)

    def _say(self, event: Event) -> None:
        self.events.append((self._now, event))

    def _phase(self, round: int, phase: str) -> None:
        begun, pace = self._now, self._chance.uniform(1, self.drift) / self.speed
        total = {"train": 0, "evaluate": self.amount}.get(phase, self.amount)
        self._say(events.PhaseStarted(round, phase, total, 0, "records"))
        loading = self._chance.uniform(6, 8) if phase in ("train", "evaluate") else 0.0
        records = list(self._records(phase, pace))
        work = records[-1][0] + 0.02 * records[-1][0]
        middle = records[len(records) // 2][0] if self.pauses else None
        if loading and phase == "evaluate":
            self._now += loading
            self._say(events.EngineReady("llamacpp", "an engine"))
        trace, shown, shift, waiting = [], -1.0, begun + loading, 0.0
        for number, (at, event) in enumerate(records):
            if middle is not None and at >= middle:
                self._now, middle = shift + at, None
                self._say(events.Paused(round, phase, True))
                self.waited.append((self._now, self._now + 300))
                self._now += 300
                waiting += 300
                self._say(events.Paused(round, phase, False))
            self._now = shift + waiting + at
            trace.append((self._work[number] if phase == "generate" else number + 1, at))
            if isinstance(event, events.TrainStep) or self._now - shown >= 0.2:
                # As often as a worker tells.
                shown, event = self._now, _of(event, round)
                self._say(event)
        self._now = shift + waiting + work
        seconds = self._now - begun - waiting
        self._say(events.PhaseFinished(round, phase, seconds, {"kept": 40.0} if phase == "filter" else {}))
        self.ends[round, phase] = begun, self._now
        self.times[phase] = self.every[round, phase] = Known(seconds - loading, loading, profile_of(trace))
        self._now += 0.5

    def _records(self, phase: str, pace: float) -> Iterator[tuple[float, Event]]:
        """The records of a phase and when they come, in seconds from when the model is there."""
        if phase == "train":
            at = 0.0
            for step in range(1, 1 + self.amount // 4):
                # The first step is slow: kernels are loaded.
                at += pace * self._chance.uniform(0.7, 1.3) * (0.0 if step == 1 else 1.0)
                yield at, events.TrainStep(0, step, self.amount // 4, 2.0, 1e-4, 100.0)
        elif phase == "generate":
            yield from self._drafts(pace)
        elif phase == "evaluate":
            half = self.amount // 2
            for number in range(half):
                yield pace * 0.05 * (number + 1), events.Progress(0, phase, number + 1, self.amount)
            began = pace * 0.05 * half
            for number, (at, running) in enumerate(self._batch([self._length() for _ in range(half)], pace)):
                share = share_of_time(began + at, at, number + 1, half - number - 1, running)
                yield began + at, events.Progress(0, phase, half + number + 1, self.amount, "", running, share)
        else:
            scale = {"respond": 1.0, "exam": 0.2, "judge": 0.2, "filter": 0.05}[phase]
            lengths = [self._length() * scale for _ in range(self.amount)]
            for number, (at, running) in enumerate(self._batch(lengths, pace)):
                yield at, events.Progress(0, phase, number + 1, self.amount, "", running)

    def _drafts(self, pace: float) -> Iterator[tuple[float, Event]]:
        """Drafts of none to three new instructions, until there are enough; they are asked for as the worker does."""
        harvest = Harvest(config.make({"per_round": self.amount}), NoveltyIndex())
        at, made, ended = 0.0, 0, 0.0
        self._work: list[float] = []
        while not harvest.full:
            asked = harvest.wanted_drafts()
            idle = IDLE * min(asked, self.slots)
            began = at
            for came, running in self._batch([1.5 * self._length() for _ in range(asked)], pace):
                at, made, asked = began + came, made + 1, asked - 1
                harvest.drafts += 1
                harvest.kept += [INSTRUCTION] * min(
                    self.amount - len(harvest.kept), self._chance.choice((0, 1, 2, 2, 3))
                )
                self._work.append(made + ended)
                to_come = harvest.drafts_to_come(made, asked, idle)
                share = share_of(self._work[-1], to_come, running) if to_come else 0.0
                yield at, events.Progress(0, "generate", len(harvest.kept), self.amount, "", running, share)
                if harvest.full:
                    break
            ended += idle

    def _length(self) -> float:
        """Seconds for a sequence: most end by themselves, a third is cut at the limit."""
        return min(10.0, self._chance.uniform(1, 13))

    def _batch(self, lengths: list[float], pace: float) -> Iterator[tuple[float, int]]:
        """When each of some sequences ends, and how many then still run; a slot that is free takes the next."""
        running: list[float] = []
        waiting = list(lengths)
        at = 0.0
        while waiting or running:
            while waiting and len(running) < self.slots:
                heapq.heappush(running, at + pace * waiting.pop(0))
            at = heapq.heappop(running)
            yield at, len(running)


def _of(event: Event, round: int) -> Event:
    assert isinstance(event, events.Progress | events.TrainStep)
    return replace(event, round=round)
