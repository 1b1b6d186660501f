"""Reads a run's folder: the one place that opens records and metrics for all that did not make them. Changes nothing.

`Round` is strict: a damaged file is an error. `Reader` and `read_round` take what is whole of files that may be
unfinished, torn, damaged or of another version, and note once for each file what they leave out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from minisheep.data.constraint_kinds import default_trained_kinds, stored_catalogue
from minisheep.errors import CorruptRunError
from minisheep.run.events import PhaseFinished, TrainStep, from_dict
from minisheep.run.files import read_json, sha256_of
from minisheep.run.folder import RoundFolder, RunFolder, read_records
from minisheep.run.metric_catalogue import Estimate, harness_values
from minisheep.run.records import Asked, Check, Draft, Example, Instruction, Record, Rejection, Response, Verdict
from minisheep.run.typed import EXAM, HEALTH, METRICS, TRAINING, NotOfShapeError, check

R = TypeVar("R", bound=Record)
T = TypeVar("T")

UNREADABLE = (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError, OverflowError)
"""The errors that data of an unexpected shape causes in the code that reads it."""
SCORES = frozenset(
    {"constraint_not_kept", "no_score", "not_best", "low_score", "high_perplexity", "crowded", "not_lowest"}
)
"""Rules of the filter that need a verdict, of a judge or a program; the others look at the text."""


class Reader:
    """Reads files below `root`. `notes` collects what could not be read, a sentence each; no content raises."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: list[str] = []

    def records(self, path: Path, kind: type[R]) -> list[R]:
        """All whole records; damaged lines are left out. A torn last line is not one yet."""
        found: list[R] = []
        damaged = 0
        for line in self.lines(path):
            try:
                found.append(kind.from_dict(json.loads(line.decode("utf-8", "surrogatepass"))))
            except UNREADABLE:
                damaged += 1
        if damaged:
            lines = "1 line" if damaged == 1 else f"{damaged} lines"
            self.note(path, f"{lines} left out: damaged, or of another version")
        return found

    def events(self, path: Path) -> list[Any]:
        """Whole events. Leaves out other lines without a note, since nothing depends on events."""
        found: list[Any] = []
        for line in self.lines(path):
            try:
                data = json.loads(line.decode("utf-8", "surrogatepass"))
                found.append(from_dict({name: value for name, value in data.items() if name != "time"}))
            except UNREADABLE:
                continue
        return found

    def lines(self, path: Path) -> Iterator[bytes]:
        """Whole lines; none where there is no such file."""
        try:
            # Binary lines end at a newline alone: model text may hold other line separators.
            with open(path, "rb") as file:
                yield from (line for line in file if line.endswith(b"\n") and line != b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            self.note(path, f"cannot be read ({error.strerror})")

    def json(self, path: Path, make: Callable[[dict[str, Any]], T], shape: Any = dict[str, Any]) -> T | None:
        """What `make` makes of a JSON object of a shape of `run.typed`; None where there is no file, or where it is not
        such an object."""
        try:
            found = json.loads(path.read_bytes())
            if isinstance(found, dict):
                check(found, shape)
                return make(found)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.note(path, f"cannot be read ({error.strerror})")
            return None
        except UNREADABLE:
            pass
        self.note(path, "damaged or of another version, so it is left out")
        return None

    def sha256(self, path: Path) -> str:
        """Of a file's bytes, in hexadecimal digits; empty where there is none."""
        try:
            return sha256_of(path)
        except OSError:
            return ""

    def note(self, path: Path, text: str) -> None:
        self.notes.append(f"{path.relative_to(self.root)}: {text}.")


@dataclass(frozen=True, slots=True)
class RoundRecords:
    """All whole records of a round, each kind in the order of its file."""

    number: int
    drafts: list[Draft]
    instructions: list[Instruction]
    responses: list[Response]
    verdicts: list[Verdict]
    kept: list[Example]
    rejected: list[Rejection]
    asked: list[Asked]
    checks: list[Check]

    @property
    def stages(self) -> list[tuple[str, int | None]]:
        """How many things were left after each stage; None where the stage was not reached."""
        drops = self.dropped
        tasks = len(self.instructions) + sum(n for rule, n in drops.items() if rule.startswith("generate."))
        by_filter = {rule.partition(".")[2]: n for rule, n in drops.items() if rule.startswith("filter.")}
        filtered = bool(self.kept or by_filter)
        by_text = sum(n for rule, n in by_filter.items() if rule not in SCORES)
        return [
            ("drafts", len(self.drafts) or None),
            ("tasks in them", tasks or None),
            ("new instructions", len(self.instructions) or None),
            ("answers", len(self.responses) or None),
            ("pass the rules", len(self.responses) - by_text if filtered else None),
            ("kept", len(self.kept) if filtered else None),
        ]

    @property
    def dropped(self) -> dict[str, int]:
        """How many each rule dropped, by ``stage.rule``, the most first."""
        return dict(Counter(f"{rejection.stage}.{rejection.rule}" for rejection in self.rejected).most_common())


def read_round(number: int, folder: RoundFolder, reader: Reader) -> RoundRecords:
    """A round's records as far as they are whole."""
    # What came last is read first, so that a round that grows meanwhile lacks no parents.
    rejected = reader.records(folder.rejected, Rejection)
    kept = reader.records(folder.kept, Example)
    verdicts = reader.records(folder.verdicts, Verdict)
    checks = reader.records(folder.checks, Check)
    responses = reader.records(folder.responses, Response)
    asked = reader.records(folder.asked, Asked)
    instructions = reader.records(folder.instructions, Instruction)
    drafts = reader.records(folder.drafts, Draft)
    return RoundRecords(number, drafts, instructions, responses, verdicts, kept, rejected, asked, checks)


def training_steps(events: Iterable[Any], number: int) -> tuple[TrainStep, ...]:
    """The training steps of a round's last training; a resumed one goes on after its checkpoint."""
    steps: dict[int, TrainStep] = {}
    for event in events:
        if isinstance(event, TrainStep) and event.round == number and _plain(event):
            steps[event.step] = event
        elif isinstance(event, PhaseFinished) and (event.round, event.phase) == (number, "filter"):
            # What was kept has changed, so the training begins anew.
            steps.clear()
    return tuple(steps[step] for step in sorted(steps))


def harness_results(run: Path, notes: list[str]) -> dict[int, dict[str, Estimate]]:
    """Values of the evaluation harness by round; the base is 0 or null in the files. Other files become a note."""
    found: dict[int, dict[str, Estimate]] = {}
    for path in sorted((run / "eval").glob("*.json")):
        try:
            report = json.loads(path.read_bytes())
            number = int(report.get("round") or 0)
            # After the round the file's name says what differs from the whole task: "ifeval-round-1-limit-20".
            variant = path.stem.partition(f"-round-{number}")[2]
            found.setdefault(number, {}).update(harness_values(report, variant))
        except (OSError, *UNREADABLE):
            notes.append(f"{path} is not a result of `minisheep eval`, so it is left out.")
    return found


@dataclass(frozen=True, slots=True)
class Round:
    """One round's results; 0 is the base model. Every property reads the folder anew. A missing file is empty, a
    damaged one raises `errors.CorruptRunError`."""

    number: int
    folder: RoundFolder

    @property
    def drafts(self) -> list[Draft]:
        """Raw lists of tasks, as the model wrote them; in the order in which they were finished."""
        return read_records(self.folder.drafts, Draft)

    @property
    def instructions(self) -> list[Instruction]:
        return read_records(self.folder.instructions, Instruction)

    @property
    def responses(self) -> list[Response]:
        return read_records(self.folder.responses, Response)

    @property
    def asked(self) -> list[Asked]:
        """How instructions were put that were not asked as they stand."""
        return read_records(self.folder.asked, Asked)

    @property
    def checks(self) -> list[Check]:
        """Programs' verdicts on answers to instructions with a constraint."""
        return read_records(self.folder.checks, Check)

    @property
    def verdicts(self) -> list[Verdict]:
        return read_records(self.folder.verdicts, Verdict)

    @property
    def kept(self) -> list[Example]:
        return read_records(self.folder.kept, Example)

    @property
    def rejected(self) -> list[Rejection]:
        return read_records(self.folder.rejected, Rejection)

    @property
    def funnel(self) -> dict[str, int]:
        """How many things were left after each stage, in order, as far as the round has come."""
        return {name: n for name, n in self.whole(self._reader()).stages if n is not None}

    @property
    def dropped(self) -> dict[str, int]:
        """How many each rule dropped, by ``stage.rule``, the most first."""
        return self.whole(self._reader()).dropped

    @property
    def exam(self) -> dict[str, Any]:
        """The judge's exam, as `stages.exam.Exam.to_dict` writes it."""
        return read_object(self.folder.exam, EXAM)

    @property
    def judge_health(self) -> dict[str, Any]:
        """The signs that `stages.judge.judge_health` lists."""
        return read_object(self.folder.health, HEALTH)

    @property
    def training(self) -> dict[str, Any]:
        """What the training counted: examples, steps, tokens, losses in nats per token, seconds."""
        return read_object(self.folder.training, TRAINING)

    @property
    def steps(self) -> list[TrainStep]:
        """The steps of the training that made the adapter."""
        path = RunFolder(self.folder.path.parent).events
        return list(training_steps(self._reader().events(path), self.number))

    @property
    def metrics(self) -> dict[str, Any]:
        return read_object(self.folder.metrics, METRICS)

    @property
    def answers(self) -> list[dict[str, Any]]:
        """Greedy answers to held-out tasks: ``task`` (its id), ``instruction``, ``input``, ``answer``, ``finish``."""
        return list(_answers(self.folder.answers, ("task", "instruction", "input", "answer")))

    @property
    def verifiable(self) -> list[dict[str, Any]]:
        """Greedy answers to verifiable instructions: ``item`` (its id), ``prompt``, ``answer``, ``finish``."""
        return list(_answers(self.folder.verifiable, ("item", "prompt", "answer")))

    @property
    def adapter(self) -> Path:
        """Plain PEFT folder."""
        return self.folder.adapter

    @property
    def adapter_gguf(self) -> Path:
        return self.folder.adapter_gguf

    def whole(self, reader: Reader) -> RoundRecords:
        """The records as far as they are whole; `reader` notes the rest."""
        return read_round(self.number, self.folder, reader)

    def ids_with(self, prefix: str) -> Iterator[str]:
        """The ids of records that begin with `prefix`, by the beginnings of lines alone."""
        start, folder = b'{"id":"', self.folder
        wanted = start + prefix.encode("utf-8", "replace")
        outputs = (folder.kept, folder.rejected, folder.verdicts, folder.checks)
        for path in (*outputs, folder.responses, folder.asked, folder.instructions, folder.drafts):
            for line in self._reader().lines(path):
                if line.startswith(wanted):
                    yield line[len(start) :].partition(b'"')[0].decode("utf-8", "replace")

    def _reader(self) -> Reader:
        return Reader(self.folder.path.parent)


def read_object(path: Path, shape: Any = dict[str, Any]) -> dict[str, Any]:
    """A JSON object of minisheep's own, of one of the shapes of `run.typed`; empty where there is no such file.

    Raises `errors.CorruptRunError`."""
    return read_shaped(path, shape) if path.exists() else {}


def read_shaped(path: Path, shape: Any) -> dict[str, Any]:
    """The JSON object of a file that must be there. Raises `errors.CorruptRunError`."""
    found = read_json(path)
    try:
        check(found, shape)
        if not isinstance(found, dict):
            raise NotOfShapeError("it holds no object")
    except NotOfShapeError as error:
        fix = "Restore it from a copy; `minisheep status RUN` may say what makes it again."
        raise CorruptRunError(f"{path} is damaged: {error}.", fix) from None
    return found


def trained_kinds(folder: RunFolder) -> frozenset[str]:
    """The kinds of constraint that a run trains on, as it stored them; minisheep's own split for a run without.

    Raises `errors.CorruptRunError` and `errors.ConfigError` for a damaged file.
    """
    stored = read_object(folder.constraints)
    return stored_catalogue(stored, str(folder.constraints)).trained if stored else default_trained_kinds()


def _answers(path: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Checks the fields, since these lines have no ids. A torn last line is no answer yet."""
    for number, line in enumerate(Reader(path.parent).lines(path), 1):
        try:
            row = json.loads(line.decode("utf-8", "surrogatepass"))
            if not all(isinstance(row[name], str) for name in names):
                raise TypeError("an answer's fields are texts")
        except UNREADABLE as error:
            raise CorruptRunError(f"{path}, line {number}, is damaged ({error}).", "Restore it from a copy.") from None
        yield row


def _plain(event: TrainStep) -> bool:
    loss, validation = event.loss, event.validation_loss
    return isinstance(event.step, int) and all(isinstance(v, int | float) for v in (loss, validation or 0.0))
