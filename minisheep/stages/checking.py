"""Whether answers keep their constraints: IFEval's kinds at once, those of plug-ins in a process of their own.

A plug-in is a user's code. It may raise, hang, end its process or answer "yes", and a night's run must not end for it:
such an answer is told apart from one that broke its constraint, and the process is begun anew where it must be. Words
of IFEval's kinds are regular expressions, and may search for ever, too: they have the same time (`in_time`).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NoReturn

from minisheep.data.constraint_kinds import find_plugin
from minisheep.errors import ConfigError, TimeUpError, WorkerError
from minisheep.machine.worker import WorkerProcess
from minisheep.rules.constraints import Catalogue, ConstraintKind, WordedConstraint
from minisheep.rules.ifeval import verify
from minisheep.run.events import Emit

CHECK_SECONDS = 5.0
"""How long a plug-in may take for one answer."""
LOAD_SECONDS = 120.0
"""How long it may take to be imported."""
GRACE_SECONDS = 5.0
"""After its time, a process ends by itself even where its parent is gone and it listens to nobody."""
GIVE_UP = 3
"""Times that a kind may hang or end its process before it is not asked again, so that a night is not spent waiting."""


@contextlib.contextmanager
def in_time(doing: str, seconds: float = CHECK_SECONDS) -> Iterator[None]:
    """Raise `errors.TimeUpError`, which `doing` begins, where the block takes more `seconds` of the processor.

    Only a main thread can have that, and one that searches by an expression does notice: it looks for signals.
    """

    def over(*_: object) -> NoReturn:
        raise TimeUpError(f"{doing} did not end within {seconds:g} s.")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class Checker:
    """Decides constraints; a context manager, since it may keep a process. Plug-ins get `seconds` for one answer.

    `catalogue` is the given one, with the functions of plug-ins asked in that process too: for
    `rules.constraints.solved_with`, which edits and checks. There a fault counts as a constraint that is not kept.
    """

    def __init__(self, catalogue: Catalogue, seconds: float = CHECK_SECONDS) -> None:
        self._seconds = seconds
        self._worker: WorkerProcess | None = None
        self._loaded: set[str] = set()
        self._ended: Counter[str] = Counter()
        self.catalogue = replace(catalogue, kinds={name: self._apart(kind) for name, kind in catalogue.kinds.items()})

    def __enter__(self) -> Checker:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:
            self._kill()
        elif self._worker is not None:
            self._worker.close()
        self._worker = None

    def check(self, constraint: WordedConstraint, prompt: str, answer: str) -> tuple[bool, str]:
        """Whether `answer` keeps the constraint, and what kept the check from deciding it: mostly empty.

        prompt: the whole instruction, for kinds that want it repeated. Where there is a fault, the answer counts as one
        that does not keep the constraint. A blank answer keeps none. Raises nothing for what a plug-in does.
        """
        kind = self.catalogue.kinds.get(constraint.kind)
        if kind is None:
            return False, f"This run knows no constraint {constraint.kind}."
        if not kind.plugin:
            arguments = constraint.arguments
            return self._in_time(kind.name, arguments, lambda: verify(kind.name, arguments, prompt, answer))
        if not answer.strip():
            return False, ""
        facts = self._ask(kind.name, "check", answer, constraint.arguments)
        return facts.get("found") is True, facts.get("fault", "")

    def _apart(self, kind: ConstraintKind) -> ConstraintKind:
        """The kind, with functions that ask the process where they are a plug-in's, and else a check in time."""
        if not kind.plugin:
            own = kind.check
            return replace(
                kind, check=lambda answer, **given: self._in_time(kind.name, given, lambda: own(answer, **given))[0]
            )

        def check(answer: str, **arguments: Any) -> bool:
            return self._ask(kind.name, "check", answer, arguments).get("found") is True

        def edit(answer: str, **arguments: Any) -> str | None:
            found = self._ask(kind.name, "edit", answer, arguments).get("found")
            return found if isinstance(found, str) else None

        return replace(kind, check=check, edit=None if kind.edit is None else edit)

    def _in_time(self, kind: str, arguments: dict[str, Any], decide: Callable[[], bool]) -> tuple[bool, str]:
        """The verdict of one of IFEval's kinds, or the fault: of these words, since others of the kind may well end."""
        asked = f"{kind} {arguments}"
        if self._ended[asked] >= GIVE_UP:
            return False, f"The check of {kind} with these words hung {GIVE_UP} times and is not asked again."
        try:
            with in_time(f"The check of {kind}", self._seconds):
                return decide(), ""
        except TimeUpError as error:
            self._ended[asked] += 1
            return False, error.message

    def _ask(self, kind: str, act: str, answer: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """What a plug-in's function found, or the fault."""
        if self._ended[kind] >= GIVE_UP:
            return {"fault": f"The plug-in of {kind} hung or ended its process {GIVE_UP} times and is not asked again."}
        job = {"kind": kind, "answer": answer, "arguments": arguments}
        try:
            if self._worker is None:
                self._worker = WorkerProcess("minisheep.stages.checking:PluginHandler")
            if kind not in self._loaded:
                facts = self._do({**job, "phase": "load", "seconds": LOAD_SECONDS}, f"Importing the plug-in of {kind}")
                if "fault" in facts:
                    return facts
                self._loaded.add(kind)
            return self._do({**job, "phase": act, "seconds": self._seconds}, f"The {act} of {kind}")
        except WorkerError as error:
            self._ended[kind] += 1
            self._kill()
            return {"fault": error.message}

    def _do(self, job: dict[str, Any], doing: str) -> dict[str, Any]:
        assert self._worker is not None
        return self._worker.do(job, doing, seconds=job["seconds"])

    def _kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.close()
        self._worker = None
        self._loaded.clear()


class PluginHandler:
    """Does jobs in the process that plug-ins have for themselves."""

    def __init__(self) -> None:
        self._kinds: dict[str, ConstraintKind] = {}

    def do(self, job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> dict[str, Any]:
        """``{"phase": "load", "check" or "edit", "kind", "answer", "arguments", "seconds"}``.

        Returns what the function ``found``, or a ``fault`` that names the kind.
        """
        # A search that never ends holds the interpreter, so that not even the end of stdin would be noticed.
        signal.setitimer(signal.ITIMER_REAL, job["seconds"] + GRACE_SECONDS)
        try:
            if job["phase"] == "load":
                self._kinds[job["kind"]] = find_plugin(job["kind"])
                return {}
            return _outcome(self._kinds[job["kind"]], job)
        except ConfigError as error:
            return {"fault": error.message}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def close(self) -> None:
        self._kinds.clear()


def _outcome(kind: ConstraintKind, job: dict[str, Any]) -> dict[str, Any]:
    """What a plug-in's function returns, if it is of the right type."""
    called = f"The {job['phase']} of {kind.name}"
    try:
        if job["phase"] == "check":
            found: Any = kind.check(job["answer"], **job["arguments"])
            wanted, right = "True or False", isinstance(found, bool)
        else:
            found = kind.edit(job["answer"], **job["arguments"]) if kind.edit is not None else None
            wanted, right = "a text or None", found is None or isinstance(found, str)
        return {"found": found} if right else {"fault": f"{called} returned {_short(repr(found))}, not {wanted}."}
    except (Exception, SystemExit) as error:
        return {"fault": f"{called} raised {_short(f'{type(error).__name__}: {error}')}."}


def _short(text: str) -> str:
    return " ".join(text.split())[:200]
