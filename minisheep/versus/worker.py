"""Answers, made by a worker, to prompts that a run's evaluation did not include.

Both models answer greedily in the run's own template, as in the evaluation. The answers are kept in the run's
``judged`` folder for another judge or another try.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minisheep.data.seed_formats import RowError, rows
from minisheep.data.seed_tasks import json_text, read_file
from minisheep.errors import CorruptRunError, SeedFileError, Stopped
from minisheep.machine.worker import WorkerProcess
from minisheep.rules.identity import digest
from minisheep.rules.prompts import user_text
from minisheep.run.events import Emit
from minisheep.run.files import disk_errors
from minisheep.run.folder import Appender, Lock, RunFolder
from minisheep.versus.contests import Contest

PHASE = "answer"
_FORMS = 'Write each line as {"instruction": ..., "input": ...}, {"prompt": ...} or {"turns": [...]}, all texts.'


def read_requests(path: str) -> list[str]:
    """The user's turns in a file of JSON lines or one JSON array (AlpacaEval's, MT-Bench's first turns), each once.

    Raises `errors.SeedFileError` naming the line of the first fault.
    """
    data, _ = read_file(path, "", "prompts file", SeedFileError)
    requests: dict[str, None] = {}
    try:
        for row in rows(json_text(data, path, SeedFileError, _FORMS)):
            request = "" if isinstance(row.value, RowError) else _request(row.value)
            if not request:
                fault = row.value if isinstance(row.value, RowError) else "it has no request"
                raise SeedFileError(f"{path}, {row.place}: {fault}.", _FORMS)
            requests[request] = None
    except RowError as error:
        raise SeedFileError(f"{path}: {error}.", _FORMS) from None
    if not requests:
        raise SeedFileError(f"{path} has no prompt.", _FORMS)
    return list(requests)


def answered_contests(run: Path, requests: Sequence[str], ours: int, theirs: int, emit: Emit) -> list[Contest]:
    """Each request with the answers of both models; a worker makes the missing ones first.

    Raises what the worker raises, and `errors.WorkerError` if it died. Finished answers are kept.
    """
    folder = RunFolder(run)
    tasks = {task_id(request): request for request in requests}
    for number in (ours, theirs):
        missing = {task: request for task, request in tasks.items() if task not in _stored(folder, number)}
        if missing:
            _have_answered(folder, number, missing, emit)
    first, second = _stored(folder, ours), _stored(folder, theirs)
    return [Contest(task, request, first[task], second[task]) for task, request in tasks.items()]


def answers_path(folder: RunFolder, round: int) -> Path:
    return folder.path / "judged" / f"answers-round-{round}.jsonl"


def task_id(request: str) -> str:
    return digest("request", {"text": request})


def do(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> None:
    """In a worker: ``{"run": folder, "round": number, "requests": {task: text}}``. An answer is written before its
    progress is reported."""
    from minisheep.engines.base import GenerateRequest, Sampling
    from minisheep.phase_report import Report
    from minisheep.rules.prompts import Frame, answer_prompt
    from minisheep.workspace import Workspace, closing

    work = Workspace(Path(job["run"]))
    requests: dict[str, str] = job["requests"]
    report = Report(job["round"], PHASE, emit, should_stop)
    report.start(len(requests), 0, "answers")
    frame = Frame(work.template)
    sampling = Sampling(temperature=0.0, max_tokens=work.settings.eval_max_tokens, stop=frame.stop)
    engine = work.measuring_engine(job["round"], report.ready)
    prompts = [GenerateRequest(task, answer_prompt(frame, text, ""), sampling) for task, text in requests.items()]
    with Appender(answers_path(work.folder, job["round"])) as file, closing(engine.generate(prompts)) as completions:
        for done, completion in enumerate(completions, 1):
            file.append(
                {"task": completion.id, "request": requests[completion.id], "answer": completion.text,
                 "finish": completion.finish, "tokens": completion.tokens}
            )  # fmt: skip
            report.step(done, len(requests))
    report.finish()
    work.close()


def _have_answered(folder: RunFolder, round: int, requests: Mapping[str, str], emit: Emit) -> None:
    path = answers_path(folder, round)
    with disk_errors(path):
        path.parent.mkdir(exist_ok=True)
    job = {"run": str(folder.path), "round": round, "phase": PHASE, "requests": requests}
    # The run's own lock: training must not replace the adapter meanwhile.
    with Lock(folder.path) as lock:
        try:
            with WorkerProcess("minisheep.versus.worker:do", folder.scratch / "worker.log", lock.handle) as worker:
                worker.do(job, f"Round {round}, {PHASE}", emit)
        except KeyboardInterrupt:
            raise Stopped("Stopped. Every answer so far is stored.", "Repeat the command to continue.") from None


def _stored(folder: RunFolder, round: int) -> dict[str, str]:
    path = answers_path(folder, round)
    answers: dict[str, str] = {}
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        try:
            row = json.loads(line)
            answers[row["task"]] = row["answer"].strip()
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CorruptRunError(f"{path} is damaged ({error}).", "Delete it, and it is made again.") from None
    return answers


def _request(item: Mapping[str, Any]) -> str:
    turns = item.get("turns")
    first = turns[0] if isinstance(turns, list) and turns else ""
    text = item.get("instruction") or item.get("prompt") or first
    more = item.get("input") or item.get("context") or ""
    return user_text(text.strip(), more.strip()) if isinstance(text, str) and isinstance(more, str) else ""
