"""What a person reads first in a handoff folder. Pure."""

from __future__ import annotations

from minisheep.handoff.job import Job


def readme(job: Job, title: str, command: str, gpus: int) -> str:
    settings = job.settings
    lines = [
        f"Round {job.round} of the run {job.run.name}, for {title}.",
        "",
        f"    {command}",
        "",
        f"Give it in this folder. It trains a LoRA adapter on {job.base},",
        f"on {gpus} GPU(s): {len(job.train)} examples, {len(job.validation)} more for validation,"
        f" {settings.batch_size} in a step, {settings.epochs} epoch(s).",
        "The result is in adapter/.",
        "",
        "The texts are in the run's own template and end where it ends an answer: set no chat template. Whoever uses",
        "the adapter must ask in that template too:",
        "",
        f"    before the user's words: {job.template.before!r}",
        f"    after them:              {job.template.between!r}",
        f"    after the answer:        {job.template.end!r}",
        "",
        "With another number of GPUs, minisheep handoff --gpus N keeps the batch as it is.",
    ]
    if settings.load_in in ("auto", "4bit"):
        lines += ["", "The base is loaded in 4 bits. Sharded training (DeepSpeed ZeRO-3, FSDP) may want it in bf16."]
    if job.start:
        lines += ["", f"It goes on with the adapter in {job.start}, which must be there."]
    if job.left_out:
        lines += [
            "",
            f"{job.left_out} example(s) were left out: their text looks like a special token of the template.",
        ]
    return "\n".join(lines) + "\n"
