"""How long a phase and a run still take, from what events tell and from what the same phases took before. Pure but for
what reads a run folder.

Nothing is said before it is known: several sequences are written at once, so the first record's time is a batch's.
A phase is known by its own records, once a batch of them is done, or by what it took in the round before or in another
run on this machine (`minisheep.phase_times`). What was known before counts less with every record.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from minisheep.rules.plain_text import duration, one_line
from minisheep.run import events
from minisheep.run.events import Event
from minisheep.run.folder import RunFolder

Key = tuple[int, str]
"""Round and name of a phase; round 0 is the base model."""
Profile = tuple[tuple[float, float], ...]
"""(share of the work, share of its time after which it was done), both ascending within 0 .. 1."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One phase of one round. Times are seconds since the epoch."""

    begun: float
    unit: str = ""
    total: int = 0
    """0 where it is not known."""
    done: int = 0
    first: int = 0
    """How much was already there when it began."""
    at: float = 0.0
    """When `done` was true."""
    paused: float = 0.0
    """Seconds of pause since it was begun."""
    took: float | None = None
    """Seconds, once it is done."""
    loading: float = 0.0
    """Seconds, of those since it was begun, until its model was there."""
    batch: int = 0
    """Sequences that were written at once, at most."""
    running: int = 0
    """Sequences that are being written."""
    share: float = 0.0
    """Of the work that there was when it was begun, where its records do not tell; 0 before that is known."""
    resumed: bool = False
    """Whether some of it was there before it began."""
    kept: float = 0.0
    """Examples that a filter kept."""

    def rate(self) -> float | None:
        """Records a second; None before anything can be said."""
        seconds = (self.took if self.took is not None else self.at - self.begun - self.paused) - self.loading
        made = self.done - self.first
        return made / seconds if made > 0 and seconds >= 1 else None

    @property
    def part(self) -> float:
        """Share of all its work that there was to do when it was begun."""
        return 1 - self.first / self.total if self.resumed and self.total else 1.0


@dataclass(frozen=True, slots=True)
class Course:
    """The phases of a run so far; `follow` makes the next."""

    stages: Mapping[Key, Stage] = field(default_factory=dict)
    now: Key | None = None
    """The phase that is being worked on."""
    paused_at: float | None = None


def follow(course: Course, event: Event, at: float) -> Course:
    """The course after `event`, which happened at `at`. Raises as odd values do: they may come from a damaged line."""
    if isinstance(event, events.RunStarted | events.Failed | events.RunFinished):
        return replace(course, now=None, paused_at=None)
    if isinstance(event, events.EngineReady):
        stage = course.stages.get(course.now) if course.now else None
        loaded = stage is not None and not stage.loading and stage.done == stage.first
        return _put(course, course.now, replace(stage, loading=at - stage.begun)) if stage and loaded else course
    if isinstance(event, events.PhaseStarted):
        first = int(event.done)
        stage = Stage(at, str(event.unit), int(event.total), first, first, at, resumed=first > 0)
        return replace(_put(course, key_of(event), stage), now=key_of(event), paused_at=None)
    if isinstance(event, events.Progress):
        key, moved = key_of(event), (int(event.done), int(event.total), int(event.running), finite(event.share))
        return _advance(course, key, *moved, at)
    if isinstance(event, events.TrainStep):
        return _step(course, event, at)
    if isinstance(event, events.Paused):
        stage = course.stages.get(key_of(event))
        if event.paused:
            return replace(course, paused_at=at)
        if course.paused_at is not None and stage is not None:
            waited = stage.paused + max(0.0, at - course.paused_at)
            course = _put(course, key_of(event), replace(stage, paused=waited, at=at))
        return replace(course, paused_at=None)
    if isinstance(event, events.PhaseFinished):
        key = key_of(event)
        stage = course.stages.get(key, Stage(at))
        kept = finite(event.counts.get("kept", 0.0))
        done = replace(stage, done=max(stage.done, stage.total), at=at, took=finite(event.seconds), kept=kept)
        return replace(_put(course, key, done), now=None if course.now == key else course.now)
    return course


def _advance(course: Course, key: Key, done: int, total: int, running: int, share: float, at: float) -> Course:
    stage = course.stages.get(key)
    # The present file may be older than the newest line of the log.
    if stage is None or stage.took is not None or at < stage.begun:
        return course
    batch = max(stage.batch, running)
    moved = replace(stage, done=done, total=total or stage.total, at=at, running=running, batch=batch, share=share)
    return _put(course, key, moved)


def _step(course: Course, event: events.TrainStep, at: float) -> Course:
    key, step = (int(event.round), "train"), int(event.step)
    stage = course.stages.get(key)
    if stage is not None and not stage.total and stage.took is None:
        # The first step's number tells what a checkpoint held, and its time when the model was there.
        loading = max(0.0, at - stage.begun - stage.paused)
        course = _put(course, key, replace(stage, first=step, loading=loading, resumed=step > 1))
    return _advance(course, key, step, int(event.total), 0, 0.0, at)


def _put(course: Course, key: Key | None, stage: Stage) -> Course:
    return course if key is None else replace(course, stages={**course.stages, key: stage})


def key_of(event: events.PhaseStarted | events.Progress | events.Glimpse | events.Paused | events.PhaseFinished) -> Key:
    return int(event.round), one_line(str(event.phase), 20)


def finite(value: float) -> float:
    """A finite number, 0 in place of others. Raises TypeError or ValueError for what is none."""
    number = float(value)
    return number if math.isfinite(number) else 0.0


@dataclass(frozen=True, slots=True)
class Known:
    """What a whole phase took before, in seconds of work."""

    work: float
    """With the model loaded."""
    loading: float = 0.0
    """Until the model was there."""
    profile: Profile = ()
    """How its records came; empty for evenly."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of a run beside its events."""

    plan: tuple[Key, ...] = ()
    """All phases of a run of full length, in order."""
    before: Mapping[str, Known] = field(default_factory=dict)
    """What phases of these settings took on this machine in other runs, by name."""
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    """How their records came, this run's among them."""
    early: bool = False
    """Whether the run may end before its last round."""
    pooled: bool = False
    """Whether a round trains on the data of all rounds so far."""


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """Seconds; None where nothing is known yet."""

    phase: float | None = None
    run: float | None = None
    """Until the end of the last round."""
    at_most: bool = False
    """Whether the run may end earlier, for want of a gain."""

    def in_words(self) -> str:
        """``about 25 s of this phase, about 12 min 03 s of the run``; empty where nothing is known."""
        phase = "" if self.phase is None else f"about {duration(self.phase)} of this phase"
        run = "" if self.run is None else f"{self.run_in_words()} of the run"
        return ", ".join(part for part in (phase, run) if part)

    def run_in_words(self) -> str:
        if self.run is None:
            return ""
        return f"{'at most' if self.at_most else 'about'} {duration(self.run)}"


UNEVEN = frozenset({"generate", "evaluate"})
"""Phases whose records do not come evenly: a draft holds several instructions or none, and the likelihood of an answer
takes less than an answer."""
IN_HAND = 0.35
"""What a sequence that is being written counts of a record, on average over a phase. In renewal theory it is half of
1 - v2, with v2 the squared variation of the lengths: 0.2 to 0.5 for answers that a limit cuts."""
LAST = 0.4
"""Records' time that a slot costs at the end, when nothing waits for it: less than one, since fewer are faster."""
TRUST = 4.0
"""Records after which the present phase counts as much as what was known before,"""
SOON = 0.1
"""and the share of its time, since batches come unevenly."""
STILL = 0.3
"""What is left at least, of the time since the last record: what was to be done by now still is not."""
TINY = 1e-6


def time_left(course: Course, outlook: Outlook, now: float) -> TimeLeft:
    """What is left at `now`, in seconds since the epoch, if all goes on as until then. A pause is no work."""
    now = now if course.paused_at is None else course.paused_at
    key, stage = course.now, course.stages.get(course.now) if course.now else None
    phase = None if key is None or stage is None else _left(stage, key[1], _known(course, outlook, key), now)
    coming = [k for k in outlook.plan if k != key and _open(course, k)]
    run = 0.0 if key is None else phase
    for seconds in (expected(course, outlook, k) for k in coming):
        run = None if run is None or seconds is None else run + seconds
    run = None if not outlook.plan else run
    present = key[0] if key else min((number for number, _ in coming), default=0)
    return TimeLeft(phase, run, outlook.early and any(number > present for number, _ in coming))


def expected(course: Course, outlook: Outlook, key: Key) -> float | None:
    """Seconds that a phase which was not begun will take; None where that is not known."""
    known = _known(course, outlook, key, present=True)
    return None if known is None else known.work + known.loading


def _slower(course: Course, outlook: Outlook, present: bool) -> float:
    """How much longer the phases of this run took than those of other runs on this machine, of which all is known
    before: other programs may share it now, or then. With what was done of the `present` phase, where that counts."""
    # A hundredth of a round as it was, so that an instant's work says little.
    took = known = sum(one.work for one in outlook.before.values()) / 100
    for (number, name), stage in course.stages.items():
        before = outlook.before.get(name)
        # A later round that trains on the data of all takes longer for that.
        if before is None or stage.resumed or (outlook.pooled and name == "train" and number > 1):
            continue
        if stage.took is not None:
            took, known = took + max(0.0, stage.took - stage.loading), known + before.work
        elif present and (passed := _passed(stage, name, before)):
            spent = stage.at - stage.begun - stage.paused - stage.loading
            trust = _trust(stage.done - stage.first, passed)
            took, known = took + trust * max(0.0, spent), known + trust * passed * before.work
    return min(50.0, max(0.02, took / known)) if known > TINY else 1.0


def _open(course: Course, key: Key) -> bool:
    stage = course.stages.get(key)
    return stage is None or stage.took is None


def _known(course: Course, outlook: Outlook, key: Key, present: bool = False) -> Known | None:
    """What a phase took in the newest round before that did it all, made fit for its amount; else on this machine, made
    fit for how fast that is now."""
    profile = outlook.profiles.get(key[1], ())
    for number in range(key[0] - 1, -1, -1):
        done = course.stages.get((number, key[1]))
        if done is None or done.took is None or done.resumed:
            continue
        stage = course.stages.get(key)
        more = stage.total / done.total if stage is not None and stage.total and done.total else 1.0
        if key[1] == "train" and (stage is None or not stage.total):
            more = _trained_on(course, outlook, key[0], number)
        loading = min(done.loading, done.took)
        return Known((done.took - loading) * more, loading, profile)
    machine = outlook.before.get(key[1])
    if machine is None:
        return None
    slower = _slower(course, outlook, present)
    return Known(machine.work * slower, machine.loading * slower, machine.profile or profile)


def _trained_on(course: Course, outlook: Outlook, round: int, before: int) -> float:
    """Examples that a round trains on over those that round `before` did; a filter that is to come keeps as many as the
    newest."""
    filters = [(n, s.kept) for (n, name), s in sorted(course.stages.items()) if name == "filter" and s.kept > 0]
    kept = dict(filters)
    if before not in kept:
        return 1.0

    def examples(last: int) -> float:
        newest = filters[-1][1]
        return sum(kept.get(n, newest) for n in (range(1, last + 1) if outlook.pooled else (last,)))

    return examples(round) / examples(before)


def _left(stage: Stage, name: str, known: Known | None, now: float) -> float | None:
    """Seconds until the phase is done."""
    if stage.took is not None:
        return None
    loading = stage.loading or (known.loading if known is not None else 0.0)
    spent, at = (max(0.0, when - stage.begun - stage.paused) for when in (now, stage.at))
    worked, wait = max(0.0, at - loading), max(0.0, spent - max(at, loading))
    made, there = max(0, stage.done - stage.first), stage.total - stage.first
    share = _share(stage, name, even=known is None or not known.profile)
    if known is None:
        if made < max(2, stage.batch) or worked < 1 or share <= 0 or (name in UNEVEN and not stage.share):
            return None
        each = worked / share / max(there, 1)
        last = LAST * min(stage.running, there - made) if not stage.share else 0.0
        return max(STILL * wait, worked * (1 - share) / share + last * each - wait)
    whole = known.work * stage.part
    if whole < TINY:
        return 0.0
    told = _passed(stage, name, known)
    slower, passed = 1.0, min(0.95, worked / whole) if told is None else told
    if told is not None and passed > TINY and worked > 0:
        slower = min(20.0, max(0.05, worked / (passed * whole))) ** _trust(made, passed)
    next_one = share / made if made > 0 else 1 / max(there, 20)
    # Where nothing tells when the next record comes, it may be the last.
    even = told is not None and (made > 0 or known.profile)
    soon = max(TINY, _interpolated(known.profile, min(1.0, share + next_one)) if even else 0.9)
    if made <= 0 or wait > max(1, stage.batch) * worked / made:
        # No record for the time of a batch: it is slower than it was.
        late = max(0.0, spent - loading) / (soon * whole)
        slower = max(slower, late ** _trust(made + 1, soon))
    ahead = max(0.0, loading - spent) if not stage.loading and made <= 0 else 0.0
    return max(STILL * wait, ahead + slower * whole * max(1 - soon, 1 - passed - wait / (slower * whole)))


def _passed(stage: Stage, name: str, known: Known) -> float | None:
    """The share of its time that a phase has behind it, by its records; None where they do not tell."""
    if name in UNEVEN and not stage.share and (name == "generate" or not known.profile):
        return None
    return _interpolated(known.profile, _share(stage, name, even=not known.profile))


def _share(stage: Stage, name: str, even: bool) -> float:
    """The share of its work that is done, 0 .. 1; where records come `even`ly, with a part of those in hand."""
    made, there = stage.done - stage.first, stage.total - stage.first
    # Where it is known how the records came, they tell more than the pace of the newest.
    share = stage.share if even or name == "generate" else 0.0
    if not share and there > 0 and made > 0:
        share = (made + (IN_HAND * min(stage.running, there - made) if even else 0.0)) / there
    return min(1.0, max(0.0, share))


def _trust(made: float, passed: float) -> float:
    """How much `made` records count against what was known before, after `passed` of the time: all of them 0 .. 1."""
    made = max(0.0, made)
    return made / (made + TRUST) * passed / (passed + SOON)


def _interpolated(profile: Profile, share: float) -> float:
    """The share of the time after which `share` of the work was done."""
    for (before, began), (after, ended) in itertools.pairwise(((0.0, 0.0), *profile, (1.0, 1.0))):
        if share <= after:
            return ended if after <= before else began + (ended - began) * (share - before) / (after - before)
    return 1.0


def share_of(made: float, to_come: float, running: int) -> float:
    """The share of the work that is done, with `running` of the sequences to come in hand."""
    return round(min(0.99, (made + IN_HAND * min(running, to_come)) / max(made + to_come, 1.0)), 4)


def share_of_time(worked: float, since: float, made: int, to_come: int, running: int) -> float:
    """The share of its time that a phase has behind it which worked `worked` seconds, `since` of them on `made` records
    of a kind, where only such are to come. What other records took says nothing of these."""
    running = min(running, to_come)
    each = since / (made + IN_HAND * running)
    return round(worked / (worked + each * (to_come + (LAST - IN_HAND) * running)), 4)


PARTS = 40


def profile_of(trace: Sequence[tuple[float, float]]) -> Profile:
    """When the first record came and each fortieth of the work was done, from (work, seconds) of all records."""
    if len(trace) < 2 or trace[-1][0] <= 0 or trace[-1][1] <= 0:
        return ()
    work, seconds = trace[-1]
    shares = [(min(1.0, made / work), min(1.0, at / seconds)) for made, at in trace]
    points = [shares[0]]
    for part in range(1, PARTS):
        reached = next((point for point in shares if point[0] >= part / PARTS), shares[-1])
        if points[-1][0] < reached[0] < 1:
            points.append(reached)
    return tuple((round(x, 4), round(y, 4)) for x, y in points if x < 1)


_TOLD = ("RunStarted", "EngineReady", "PhaseStarted", "TrainStep", "Paused", "PhaseFinished", "Failed", "RunFinished")


def first_time(folder: RunFolder) -> float:
    """When a run was begun, in seconds since the epoch; now where its events do not say."""
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError), open(folder.events, "rb") as file:
        return events.timed(json.loads(file.readline()))[0]
    return time.time()


def read_course(folder: RunFolder) -> Course:
    """The course of a run on disk; lines that make no sense are passed over."""
    course = Course()

    def take(timed: events.Timed) -> None:
        nonlocal course
        with contextlib.suppress(TypeError, ValueError, AttributeError, OverflowError):
            course = follow(course, timed[1], timed[0])

    with contextlib.suppress(OSError), open(folder.events, "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                data = json.loads(line)
                if data.get("event") in _TOLD:
                    take(events.timed(data))
    for timed in events.read(folder.present):
        if isinstance(timed[1], events.Progress):
            take(timed)
    return course
