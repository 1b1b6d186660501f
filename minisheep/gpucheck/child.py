"""The child process of one measurement: ``python -m minisheep.gpucheck.child JOB``, JSON lines on stdout.

{"facts": {...}}   what was measured        {"failed": ...}   what went wrong, as the parent would say it
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import traceback
from functools import partial
from typing import Any

from minisheep.bench import material
from minisheep.bench.desk import Desk
from minisheep.bench.plan import Job
from minisheep.bench.turns import after_first_step, timed
from minisheep.bench.without_amx import die_with_parent
from minisheep.errors import MinisheepError
from minisheep.events import Event, TrainStep
from minisheep.gpucheck.jobs import DECODE, TRAIN


def main(argument: str) -> int:
    die_with_parent()
    # Libraries print what they like; what the parent reads is for us alone.
    said = os.dup(1)
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        os.write(said, json.dumps(message).encode() + b"\n")

    desk = Desk(Job(**json.loads(argument)))
    # Unsloth writes a folder of compiled code wherever it is.
    os.chdir(desk.folder)
    try:
        say({"facts": measure(desk)})
    except MinisheepError as error:
        say({"failed": {"kind": type(error).__name__, "message": error.message, "fix": error.fix}})
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        say({"failed": {"kind": "WorkerError", "message": f"{type(error).__name__}: {error}"[:500], "fix": ""}})
        return 1
    return 0


def measure(desk: Desk) -> dict[str, Any]:
    part = desk.job.part
    return decode(desk) if part == DECODE else train(desk, part.removeprefix(TRAIN))


def decode(desk: Desk) -> dict[str, Any]:
    """New tokens a second with so many sequences at once; the median of the turns, each with prompts of its own."""
    from minisheep.engines.llamacpp import LlamaCppEngine

    sizes, slots = desk.job.sizes, desk.job.slots
    engine = LlamaCppEngine(desk.model.inference_gguf, slots=slots, context=sizes["context"], threads=desk.threads)
    try:

        def turn(number: int) -> float:
            count = max(slots * 2, sizes["least"])
            requests = material.decode_requests(desk.seeds, count, sizes["tokens"], number)
            return float(sum(completion.tokens for completion in engine.generate(requests)))

        turn(10**6)  # kernels are loaded, graphs captured
        turns = [timed(partial(turn, number)) for number in range(desk.job.repeats)]
        return {
            "tokens_per_second": statistics.median(one.rate for one in turns),
            "turns": [one.rate for one in turns],
            "slots": engine.info.slots,
            "engine": engine.info.description,
        }
    finally:
        engine.close()


def train(desk: Desk, trainer: str) -> dict[str, Any]:
    """One training by the named trainer. Raises `errors.UsageError` where this version or machine lacks it."""
    from minisheep.stages.train import train_job
    from minisheep.trainers.choose import choose, make_trainer

    sizes, model = desk.job.sizes, desk.model.prepared
    choose(trainer, "auto", model.architecture)
    # Without dropout and held-out examples, the same data in the same order must give the same curve.
    settings = desk.settings(
        trainer=trainer, epochs=sizes["epochs"], batch_size=sizes["batch"], micro_batch_size=sizes["micro"],
        max_length=sizes["max_length"], lora_dropout=0.0, validation=0.0, checkpoint_seconds=1e9,
    )  # fmt: skip
    folder = desk.folder / trainer
    job = train_job(
        settings, model.template, 1, material.examples(desk.seeds, sizes["examples"]),
        gguf=model.gguf, weights=model.weights, output=folder / "adapter", scratch=folder / "scratch",
    )  # fmt: skip
    job.scratch.mkdir(parents=True)
    losses: list[float] = []
    steps: list[tuple[float, float]] = []

    def hear(event: Event) -> None:
        if isinstance(event, TrainStep):
            losses.append(event.loss)
            steps.append((time.perf_counter(), event.tokens_per_second))

    result = make_trainer(trainer).train(job, hear, lambda: False)
    import torch

    allocated = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "losses": losses, "tokens_per_second": after_first_step(steps).rate, "seconds": result.seconds,
        "load_in": result.load_in, "allocated_bytes": int(allocated),
    }  # fmt: skip


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stderr.flush()
    # Native libraries may crash while they are torn down, after everything was said.
    os._exit(code)
