"""Many questions at once to one server; replies come as they finish."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Q = TypeVar("Q")
R = TypeVar("R")

Ask = Callable[[Q, threading.Event, bool], R]
"""A question, an event that ends waiting, and whether it is the first one."""


def ask_all(ask: Ask[Q, R], questions: Sequence[Q], at_once: int, *, known: bool = False) -> Iterator[tuple[Q, R]]:
    """Each question with its reply, at most `at_once` of them under way.

    The first one goes alone, so that a wrong address or key costs one question, unless the server is `known`. When one
    fails, what is under way is still waited for and given, and then its error is raised. Closing the iterator asks
    nothing further.
    """
    if not questions:
        return
    stop = threading.Event()
    try:
        if not known:
            yield questions[0], ask(questions[0], stop, True)
            questions = questions[1:]
        yield from _together(ask, questions, at_once, stop)
    finally:
        stop.set()


def _together(ask: Ask[Q, R], questions: Sequence[Q], at_once: int, stop: threading.Event) -> Iterator[tuple[Q, R]]:
    waiting: queue.SimpleQueue[Q] = queue.SimpleQueue()
    for question in questions:
        waiting.put(question)
    done: queue.SimpleQueue[tuple[Q, R] | Exception | None] = queue.SimpleQueue()

    def work() -> None:
        while not stop.is_set():
            try:
                question = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                done.put((question, ask(question, stop, False)))
            except Exception as error:
                stop.set()
                done.put(error)
        done.put(None)

    # Daemons, since a reply that hangs must not keep the program from ending.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(questions)))]
    for thread in threads:
        thread.start()
    failure: Exception | None = None
    working = len(threads)
    while working:
        found = done.get()
        if found is None:
            working -= 1
        elif isinstance(found, Exception):
            failure = failure or found
        else:
            yield found
    if failure is not None:
        raise failure
