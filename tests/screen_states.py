"""A run of two rounds as its events tell it, for tests and pictures of the screen."""

from __future__ import annotations

from typing import Any

from minisheep.machine.gpu import Gpu
from minisheep.machine.system import MachineLoad
from minisheep.run import events
from minisheep.run.time_left import Outlook
from minisheep.terminal.screen_state import ROUND, Look, State, fold

START = 1_800_000_000.0
PLAN = ((0, "evaluate"), *((number, name) for number in (1, 2) for name in ROUND))
MACHINE = MachineLoad(
    ram_used=5 * 2**30,
    ram_total=16 * 2**30,
    gpus=(
        Gpu(
            "NVIDIA GeForce RTX 3090", (8, 6), 24 * 2**30, 4 * 2**30, busy=97, temperature=71, watts=312.4, limit=350.0
        ),
    ),
)
CPU = MachineLoad(ram_used=5 * 2**30, ram_total=16 * 2**30)
INSTRUCTION = "Explain to a ten-year-old why the sea is salty although the rivers that feed it are not."
ANSWER = (
    "Rain washes tiny amounts of salt out of rocks, and rivers carry them to the sea. The sun lifts the water out of"
    " the sea again, but the salt stays behind. So over millions of years, the sea has become salty, while the rivers"
    " are rinsed with fresh rain all the time."
)


def metrics(number: int) -> dict[str, Any]:
    """What an evaluation would write, as far as the screen shows it."""
    made: dict[str, Any] = {
        "round": number,
        "model": {
            "held_out_nll": 2.67 - 0.05 * number,
            "ended": 0.58 + 0.05 * number,
            "verifiable": {"instruction_strict": {"value": 0.30 + 0.03 * number, "low": 0.2, "high": 0.4}},
        },
        "decision": {"best": number, "without_gain": 0, "outcome": "gain" if number else "first"},
    }
    if number:
        made["model"]["nll_change"] = {"mean": -0.05 * number, "standard_error": 0.012, "tasks": 75}
        made["decision"]["against"] = 0
        made["decision"]["measures"] = {"constraints": {"value": 0.03, "low": -0.01, "high": 0.07}}
        counts = [0, 2, 5, 9, 14, 8, 4, 1, 0, 0]
        histogram = {"edges": [x / 2 for x in range(-1, 10)], "counts": counts}
        made["data"] = {
            "instructions": 60, "kept": 17, "keep_rate": 0.283, "near_duplicate_rate": 0.03,
            "scores": {"judge": "pmi", "mean": 1.64, "sd": 0.61, "histogram": histogram},
        }  # fmt: skip
    return made


def story() -> list[tuple[float, events.Event]]:
    """From the start to the judge of round 2, a minute a stage: (seconds since the start, event)."""
    told: list[tuple[float, events.Event]] = [
        (0, events.RunStarted("runs/sea", "smollm2-135m", 2, "llamacpp", "peft")),
        (1, events.PhaseStarted(0, "evaluate", 103, 0, "tasks")),
        (2, events.EngineReady("llamacpp", "llama.cpp 0.3.36, CPU, 2 threads, llama 256M BF16, 16 slots")),
        (40, events.RoundMeasured(0, metrics(0))),
        (41, events.PhaseFinished(0, "evaluate", 40.0, {"tasks": 75})),
    ]
    at = 60.0
    for name in ROUND:
        total = 0 if name == "train" else 60
        told.append((at, events.PhaseStarted(1, name, total, 0, "records")))
        if name == "exam":
            told.append((at + 5, events.Note("The judge is pmi: AUC 0.91 over 40 tasks.")))
        if name == "filter":
            told.append((at + 5, events.Note("Round 1 repeats itself: 12% of its instructions are alike.", "warning")))
        if name == "train":
            for step in range(1, 13):
                loss = 1.2 + 1.1 / step
                held = loss + 0.2 if step % 4 == 0 else None
                told.append((at + 4 * step, events.TrainStep(1, step, 12, loss, 1e-4, 221.4, held)))
        if name == "evaluate":
            told.append((at + 49, events.RoundMeasured(1, metrics(1))))
        told.append((at + 50, events.PhaseFinished(1, name, 50.0, {"records": 60})))
        at += 60
    for name in ("exam", "generate", "respond"):
        told.append((at, events.PhaseStarted(2, name, 60, 0, "records")))
        told.append((at + 50, events.PhaseFinished(2, name, 50.0, {"records": 60})))
        at += 60
    told += [
        (at, events.PhaseStarted(2, "judge", 60, 0, "pairs")),
        (at + 20, events.Progress(2, "judge", 24, 60)),
        (
            at + 20,
            events.Glimpse(
                2, "judge", 1234.5, 14, 16, INSTRUCTION, ANSWER, 1.871, None, None, "pmi",
                [-0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5], [1, 3, 6, 9, 4, 1],
            ),
        ),
    ]  # fmt: skip
    return told


def told(until: float = float("inf"), state: State | None = None) -> State:
    """The state after all that the story tells within `until` seconds."""
    found = state or State(outlook=Outlook(PLAN))
    for at, event in story():
        if at <= until:
            found = fold(found, event, START + at)
    return found


def look(**different: Any) -> Look:
    return Look(**{"machine": CPU, **different})
