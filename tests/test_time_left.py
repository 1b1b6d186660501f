"""The time left against what then happens: simulated runs with batches, loading, dropped drafts and pauses."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from simulated_runs import ROUND, Simulated

from minisheep import api, config, phase_times
from minisheep.phase_report import Report
from minisheep.phase_times import PhaseTime, keep_time, known_times, phase_time, read_times, times_path
from minisheep.run import events
from minisheep.run.events import Event
from minisheep.run.time_left import Course, Known, Outlook, Stage, TimeLeft, follow, profile_of, time_left

WITHIN, PART = 0.3, 0.05
"""An estimate may be off by this share of what is left, or by this part of the phase: a record or two at its end."""


@dataclasses.dataclass
class Told:
    round: int
    phase: str
    found: TimeLeft
    phase_left: float
    run_left: float
    whole: float

    @property
    def right(self) -> bool:
        assert self.found.phase is not None
        return abs(self.found.phase - self.phase_left) <= max(WITHIN * self.phase_left, PART * self.whole)


def told(run: Simulated, before: dict[str, Known]) -> Iterator[Told]:
    """What was told at each twentieth of each phase, from a tenth of its work on; what is done is known later."""
    course, place, profiles = Course(), 0, {name: one.profile for name, one in before.items()}
    end = max(end for _, end in run.ends.values())
    for (round, phase), (began, ended) in run.ends.items():
        whole = run.left(began, ended)
        for part in range(1, 20):
            at = began + (ended - began) * part / 20
            while run.events[place][0] <= at:
                course, place = follow(course, run.events[place][1], run.events[place][0]), place + 1
            left = run.left(at, ended)
            if whole - left >= 0.1 * whole:
                found = time_left(course, dataclasses.replace(run.outlook, before=before, profiles=dict(profiles)), at)
                yield Told(round, phase, found, left, run.left(at, end), whole)
        profiles[phase] = run.every[round, phase].profile


@cache
def simulated(known: bool) -> dict[str, list[Told]]:
    found = defaultdict(list)
    for slots, amount in ((1, 60), (16, 250), (64, 1000)):
        for seed in range(6):
            before = Simulated(seed + 100, 1, slots, amount).run().times if known else {}
            run = Simulated(seed, 2, slots, amount, speed=0.8 if seed % 2 else 1.0, pauses=seed % 3 == 0).run()
            for one in told(run, before):
                found[one.phase].append(one)
    return found


@pytest.mark.parametrize("known", [False, True], ids=["first run", "known machine"])
@pytest.mark.parametrize("phase", ROUND)
def test_from_a_tenth_of_a_phase_on_the_time_left_is_within_thirty_per_cent(phase: str, known: bool) -> None:
    every = simulated(known)[phase]
    said = [one for one in every if one.found.phase is not None]
    assert len(said) > (0.95 if known else 0.4) * len(every)
    # What a draft will hold is drawn by chance, and may change from round to round.
    assert sum(one.right for one in said) > (0.7 if phase == "generate" else 0.9) * len(said)


def test_the_base_models_own_measuring_tells_though_nothing_like_it_was_done_before() -> None:
    first = [one for one in simulated(False)["evaluate"] if one.round == 0]
    said = [one for one in first if one.found.phase is not None]
    assert len(said) > 0.6 * len(first) and sum(one.right for one in said) > 0.8 * len(said)


def test_the_time_left_of_the_run_is_within_thirty_per_cent() -> None:
    every = [one for phase in ROUND for one in simulated(True)[phase]]
    late = [one for one in every if one.found.run is None or abs(one.found.run - one.run_left) > WITHIN * one.run_left]
    assert len(late) < 0.05 * len(every)
    first = [one for phase in ROUND for one in simulated(False)[phase] if one.round == 1 and phase != "evaluate"]
    assert all(one.found.run is None for one in first)


def test_a_machine_that_was_busy_then_or_is_now_is_noticed() -> None:
    """What a phase took while other programs ran is eight times what it takes now, or an eighth."""
    for wrong in (8.0, 1 / 8):
        took = Simulated(100, 1, 16, 250).run().times
        before = {name: dataclasses.replace(one, work=one.work * wrong) for name, one in took.items()}
        every = [one for one in told(Simulated(1, 2, 16, 250).run(), before) if (one.round, one.phase) > (1, "exam")]
        runs = [one.found.run / one.run_left for one in every if one.found.run is not None]
        assert len(runs) == len(every) and sum(0.7 < ratio < 1.3 for ratio in runs) > 0.9 * len(runs)


# What is told when


def course(*given: tuple[float, Event]) -> Course:
    found = Course()
    for at, event in given:
        found = follow(found, event, at)
    return found


def test_the_first_record_of_a_batch_tells_nothing_yet() -> None:
    begun = (0.0, events.PhaseStarted(1, "respond", 160, 0, "answers"))
    one = course(begun, (10.0, events.Progress(1, "respond", 1, 160, "", 15)))
    assert time_left(one, Outlook(), 10.0) == TimeLeft()
    batch = course(begun, (10.0, events.Progress(1, "respond", 1, 160, "", 15)))
    batch = follow(batch, events.Progress(1, "respond", 40, 160, "", 16), 25.0)
    left = time_left(batch, Outlook(), 25.0).phase
    assert left is not None and 55 < left < 85


def test_the_round_before_tells_before_the_first_record() -> None:
    told_before = (
        (0.0, events.PhaseStarted(1, "respond", 100)),
        (60.0, events.PhaseFinished(1, "respond", 60.0, {})),
        (100.0, events.PhaseStarted(2, "respond", 50)),
    )
    assert time_left(course(*told_before), Outlook(), 110.0).phase == pytest.approx(20, rel=0.1)


def test_instructions_tell_nothing_of_drafts_that_were_not_counted() -> None:
    known = Outlook(before={"generate": Known(100.0, 0.0, ((0.1, 0.5), (0.5, 0.9)))})
    begun = course(
        (0.0, events.PhaseStarted(1, "generate", 24)),
        (10.0, events.Progress(1, "generate", 12, 24, "2 drafts", 6)),
    )
    assert time_left(begun, known, 10.0).phase == pytest.approx(90, rel=0.1)


def test_what_should_be_over_and_is_not_has_no_seconds_left_but_some() -> None:
    known = Outlook(before={"generate": Known(60.0, 0.0, ((0.1, 0.1), (0.5, 0.5)))})
    begun = (0.0, events.PhaseStarted(1, "generate", 24))
    late = course(begun, (70.0, events.Progress(1, "generate", 10, 24, "18 drafts", 2, 0.95)))
    for outlook in (known, Outlook()):
        left = time_left(late, outlook, 200.0).phase
        assert left is not None and left >= 30


def test_a_pause_stops_the_clock() -> None:
    begun = course((0.0, events.PhaseStarted(1, "judge", 60)), (20.0, events.Progress(1, "judge", 30, 60)))
    paused = follow(begun, events.Paused(1, "judge", True), 20.0)
    assert time_left(paused, Outlook(), 20.0).phase == time_left(paused, Outlook(), 9_000.0).phase
    going_on = follow(paused, events.Paused(1, "judge", False), 9_000.0)
    going_on = follow(going_on, events.Progress(1, "judge", 45, 60), 9_010.0)
    assert time_left(going_on, Outlook(), 9_010.0).phase == pytest.approx(10, rel=0.1)


def test_loading_is_no_part_of_a_training_steps_time() -> None:
    begun = course((0.0, events.PhaseStarted(1, "train")), (30.0, events.TrainStep(1, 1, 20, 2.0, 1e-4, 9.0)))
    assert time_left(begun, Outlook(), 30.0).phase is None
    for step in range(2, 6):
        begun = follow(begun, events.TrainStep(1, step, 20, 2.0, 1e-4, 9.0), 30.0 + 2 * (step - 1))
    assert time_left(begun, Outlook(), 38.0).phase == pytest.approx(30, rel=0.1)


def test_a_training_is_foretold_by_what_the_filter_kept() -> None:
    before = (
        (0.0, events.PhaseFinished(1, "filter", 1.0, {"kept": 20.0})),
        (1.0, events.PhaseStarted(1, "train")),
        (11.0, events.TrainStep(1, 1, 10, 2.0, 1e-4, 9.0)),
        (51.0, events.PhaseFinished(1, "train", 50.0, {})),
        (60.0, events.PhaseFinished(2, "filter", 1.0, {"kept": 40.0})),
        (61.0, events.PhaseStarted(2, "train")),
    )
    assert time_left(course(*before), Outlook(), 61.0).phase == pytest.approx(10 + 80)
    assert time_left(course(*before), Outlook(pooled=True), 61.0).phase == pytest.approx(10 + 120)


def test_a_run_that_may_end_early_takes_at_most_that_long() -> None:
    plan = ((0, "evaluate"), *((number, name) for number in (1, 2) for name in ROUND))
    known = dict.fromkeys(ROUND, Known(10.0))
    begun = course((0.0, events.PhaseStarted(0, "evaluate", 10)))
    found = time_left(begun, Outlook(plan, known, early=True), 0.0)
    assert found == TimeLeft(10.0, 150.0, True)
    assert found.in_words() == "about 10 s of this phase, at most 2 min 30 s of the run"
    last = course((0.0, events.PhaseStarted(2, "evaluate", 10)))
    assert not time_left(last, Outlook(plan[-1:], known, early=True), 0.0).at_most


def test_a_phase_that_went_on_after_a_break_is_no_measure_of_a_whole_one() -> None:
    before = (
        (0.0, events.PhaseStarted(1, "respond", 100, 90)),
        (3.0, events.PhaseFinished(1, "respond", 3.0, {})),
        (9.0, events.PhaseStarted(2, "respond", 100)),
    )
    assert time_left(course(*before), Outlook(), 9.0).phase is None


def test_a_damaged_line_tells_nothing() -> None:
    for value in (None, "x", float("nan"), -1, 1e300):
        stage = Stage(0.0, total=10)
        odd = dataclasses.replace(stage, done=5, at=3.0, share=value if isinstance(value, float) else 0.0)
        found = time_left(Course({(1, "judge"): odd}, (1, "judge")), Outlook(), 5.0).phase
        assert found is None or found >= 0


# What is kept of a phase


def test_what_a_phase_took_is_carried_over_to_other_settings() -> None:
    small, large = config.make({"per_round": 30, "answers": 2}), config.make({"per_round": 300, "answers": 2})
    time = phase_time(small, 1, "respond", 45.0, 5.0, ((0.1, 0.2),))
    assert phase_times.profiles(small, {"respond": [time]}) == {"respond": ((0.1, 0.2),)}
    assert time is not None and (time.seconds, time.loading) == (40.0, 5.0)
    assert known_times(small, {"respond": [time]})["respond"] == Known(40.0, 5.0, ((0.1, 0.2),))
    assert known_times(large, {"respond": [time]})["respond"] == Known(pytest.approx(400.0), 5.0)


def test_times_are_kept_by_model_engine_and_machine() -> None:
    settings = config.make({})
    path = times_path(settings, "a" * 64)
    assert path != times_path(settings, "b" * 64) and path != times_path(config.make({"threads": 77}), "a" * 64)
    assert path == times_path(config.make({"per_round": 7}), "a" * 64)
    keep_time(path, "judge", PhaseTime(10.0, 2.0, 0.0, (), 1.0))
    for number in range(phase_times.KEPT + 2):
        keep_time(path, "respond", PhaseTime(20.0, 4.0, 1.0, ((0.5, 0.6),), float(number)))
    assert set(read_times(path)) == {"judge", "respond"}
    assert [one.at for one in read_times(path)["respond"]] == [2.0, 3.0, 4.0, 5.0, 6.0]


def test_a_phase_takes_the_median_of_what_it_took_in_other_runs() -> None:
    settings = config.make({})
    work = phase_times.tokens(settings)["respond"]
    times = {"respond": [PhaseTime(work, took, 0.0, (), at) for at, took in enumerate((40.0, 900.0, 50.0, 60.0))]}
    assert known_times(settings, times)["respond"].work == 50.0
    assert known_times(settings, times, until=2.0)["respond"].work == 40.0
    assert known_times(settings, times, until=0.0) == {}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"judge": 3}', '{"judge": [{"work": -1}]}', "[" * 10_000])
def test_a_damaged_file_of_times_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "times.json").write_text(text, encoding="utf-8")
    assert read_times(tmp_path / "times.json") == {}


def test_a_profile_says_when_the_first_record_came_and_ends_before_the_last() -> None:
    profile = profile_of([(number, 10.0 + number / 10) for number in range(1, 101)])
    assert profile[0] == (0.01, 0.505) and profile[-1][0] < 1
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(profile))
    assert profile_of([]) == profile_of([(1, 2.0)]) == ()


def test_only_a_phase_done_in_one_go_leaves_its_time() -> None:
    settings = config.make({})
    for first, kept in ((3, set()), (0, {"respond"})):
        report = Report(1, "respond", lambda event: None, lambda: False)
        report.start(10, first)
        for done in range(first + 1, 11):
            report.step(done, 10)
        report.keep_time(settings, "c" * 64)
        assert set(read_times(times_path(settings, "c" * 64))) == kept


def test_a_run_on_disk_tells_its_time_left(tmp_path: Path) -> None:
    assert api.load_run(Path(__file__).parent / "data" / "run-0.1").time_left == TimeLeft()
    more = api.align(tmp_path / "more", engine="fake", trainer="fake", per_round=4, rounds=2, patience=0, inline=True,
                     until=api.loop.Phase(1, "evaluate"))  # fmt: skip
    left = more.time_left
    # Every phase of round 2 is known from round 1.
    assert left.phase is None and left.run is not None and 0 < left.run < 600 and not left.at_most
