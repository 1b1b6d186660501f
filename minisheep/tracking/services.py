"""The services that a run can be shown in, each by its own package, which only the process that tells it loads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from minisheep.rules.plain_text import shell
from minisheep.tracking.shown_values import ROUND, STEP, TrackedValues

FOLDER = "tracking"
"""In the run folder."""
TITLES = ("instruction", "base", "this round")


class Service(Protocol):
    """Takes what is shown of a run. Any exception means that it is gone."""

    anew: bool
    """Whether it is told everything each time it is opened, in place of what it had."""
    where: str
    """Where a person sees it."""

    def put(self, line: int, at: float, shown: TrackedValues) -> None:
        """What the event of a line of the file shows; `at` is its time, in seconds since the epoch."""

    def flush(self) -> None: ...

    def close(self) -> None:
        """Everything is told."""


class TensorBoard:
    """Event files in the run folder, written by TensorBoard's own package: neither torch nor TensorFlow is loaded."""

    anew = True

    def __init__(self, run: Path, _identity: str, settings: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = run / FOLDER / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.where = f"tensorboard --logdir {shell(folder)}"
        self._events, self._summaries = event_pb2, summary_pb2
        self._writer = EventFileWriter(str(folder))

        def table(tag: str, rows: Sequence[tuple[str, ...]]) -> Any:
            cells = [_markdown(cell).encode() for row in rows for cell in row]
            size = [TensorShapeProto.Dim(size=len(rows)), TensorShapeProto.Dim(size=len(rows[0]))]
            tensor = TensorProto(dtype=DT_STRING, string_val=cells, tensor_shape=TensorShapeProto(dim=size))
            metadata = create_summary_metadata(display_name=tag, description="")
            return summary_pb2.Summary.Value(tag=tag, tensor=tensor, metadata=metadata)

        self._table = table
        # A TensorBoard that is open forgets what the old files told it.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=0, session_log=start))
        rows = [("setting", "value"), *((name, str(value)) for name, value in settings.items())]
        self._add(time.time(), 0, [table("settings", rows)])

    def put(self, line: int, at: float, shown: TrackedValues) -> None:
        values = [self._summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in shown.numbers.items()]
        if shown.histogram is not None:
            tag, edges, counts = shown.histogram
            middles = [(low + high) / 2 for low, high in pairwise(edges)]
            total = sum(middle * count for middle, count in zip(middles, counts, strict=True))
            squares = sum(middle**2 * count for middle, count in zip(middles, counts, strict=True))
            proto = self._summaries.HistogramProto(
                min=edges[0], max=edges[-1], num=sum(counts), sum=total, sum_squares=squares,
                bucket_limit=edges[1:], bucket=counts,
            )  # fmt: skip
            values.append(self._summaries.Summary.Value(tag=tag, histo=proto))
        if shown.samples:
            values.append(self._table("samples", [TITLES, *shown.samples]))
        self._add(at, shown.at, values)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _add(self, at: float, step: int, values: list[Any]) -> None:
        summary = self._summaries.Summary(value=values)
        self._writer.add_event(self._events.Event(wall_time=at, step=step, summary=summary))


class WeightsAndBiases:
    """A W&B run that is gone on with by its id. The number of an event's line is the step, which W&B never takes twice;
    charts are over steps of training and over rounds."""

    anew = False

    def __init__(self, run: Path, identity: str, settings: Mapping[str, Any]) -> None:
        # Of this machine nothing is sent: no command line, host, code, console or use of the processor.
        os.environ |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
        import wandb

        quiet = wandb.Settings(
            console="off", disable_code=True, disable_git=True, disable_job_creation=True, save_code=False,
            x_disable_meta=True, x_disable_stats=True,
        )  # fmt: skip
        self._wandb: Any = wandb
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "minisheep", id=identity, name=run.resolve().name,
            resume="allow", config=dict(settings), settings=quiet,
        )  # fmt: skip
        self._run.define_metric("*", step_metric=ROUND)
        self._run.define_metric("train/*", step_metric=STEP)
        # In WANDB_DIR or here, as always: W&B makes links, which a run folder must not hold.
        kept = Path(self._run.dir).parent.parent
        self.where = self._run.url or f"wandb sync {shell(kept)}/offline-run-*-{identity} (offline so far)"

    def put(self, line: int, at: float, shown: TrackedValues) -> None:
        told: dict[str, Any] = {**shown.numbers, ROUND: shown.round, shown.axis: shown.at}
        if shown.histogram is not None:
            tag, edges, counts = shown.histogram
            told[tag] = self._wandb.Histogram(np_histogram=(list(counts), list(edges)))
        if shown.samples:
            told[f"samples/round-{shown.at}"] = self._wandb.Table(columns=list(TITLES), data=list(shown.samples))
        self._run.log(told, step=line)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A trackio run that is gone on with by its name; on this machine, unless trackio's own variables name a place."""

    anew = False

    def __init__(self, run: Path, identity: str, settings: Mapping[str, Any]) -> None:
        import trackio

        self._trackio: Any = trackio
        name = f"{run.resolve().name}-{identity}"
        # A Space that has to be made first is not for everybody to read.
        trackio.init(
            project="minisheep", name=name, config=dict(settings), resume="allow", private=True, embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        self.where = f"trackio show --project minisheep (run {name})"

    def put(self, line: int, at: float, shown: TrackedValues) -> None:
        told: dict[str, Any] = {**shown.numbers, ROUND: shown.round, shown.axis: shown.at}
        if shown.samples:
            told["samples"] = self._trackio.Table(columns=list(TITLES), data=[list(row) for row in shown.samples])
        self._trackio.log(told, step=shown.at)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._trackio.finish()


SERVICES: dict[str, Callable[[Path, str, Mapping[str, Any]], Service]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}


def _markdown(text: str) -> str:
    """Text for TensorBoard, which reads Markdown: shown as it is, whatever it holds."""
    for sign in "\\`*_{}[]()#+-.!|~":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "\n\n")
