"""The process that owns the model and the server. Its parent has the socket, so that a taken port is told at once."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from minisheep import prepare
from minisheep.config import Settings
from minisheep.engines.base import StreamingEngine
from minisheep.errors import UsageError
from minisheep.machine.worker import SILENT_SECONDS
from minisheep.open_engines import open_engine, put_adapter, tell_engine
from minisheep.run.events import Emit, Found, Progress
from minisheep.serve.desk import Desk
from minisheep.serve.endpoints import Endpoints, Offered
from minisheep.workspace import adapter_of, conversation_of

PHASE = "serve"
SLOTS = 8
"""Texts that run at once where the user does not say, and their memory is free."""
GRACE_SECONDS = 3.0
"""How long what runs may go on once the server is to stop."""
POLL_SECONDS = 0.05


def do(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> None:
    """Serve until `should_stop`: ``{"run": folder, "round": number, "models": {name: round}, "slots": number or 0,
    "queue": number, "key": text, "hosts": names or [], "socket": handle of a listening socket}``.

    Events: what loading says; ``listening`` with slots and context; ``request`` with the facts of each.
    """
    with socket.socket(fileno=job["socket"]) as listener:
        work, model = prepare.open_model(Path(job["run"]), emit)
        settings = work.settings
        engine = opened(settings, job["slots"], model.inference_gguf)
        tell_engine(engine.info, emit)

        loaded: list[int] = []

        def put_round(number: int) -> None:
            if loaded != [number]:
                loaded.clear()
                adapter = adapter_of(work.folder, number, f"so round {number} cannot answer", "Ask for another model.")
                put_adapter(engine, adapter)
                loaded.append(number)

        # The first model is loaded now, so that what is wrong with it is told before anybody asks.
        put_round(job["round"])
        offered = Offered(
            job["models"], conversation_of(model), settings.answer_temperature, settings.answer_top_p,
            job["key"], job["hosts"],
        )  # fmt: skip
        desk = Desk(engine, put_round, job["queue"])
        endpoints = Endpoints(offered, desk, lambda facts: emit(Found("request", facts)))
        thread = threading.Thread(target=desk.run, name="engine", daemon=True)
        thread.start()
        listening = Found("listening", {"slots": desk.slots, "context": desk.context})
        well = Progress(job["round"], PHASE, 0)
        """Says to the parent that the process is well; nobody is shown it."""
        asyncio.run(serve(endpoints, desk, listener, should_stop, lambda: emit(listening), lambda: emit(well)))
        thread.join(GRACE_SECONDS)
        if not thread.is_alive():
            engine.close()


async def serve(
    endpoints: Endpoints,
    desk: Desk,
    listener: socket.socket,
    should_stop: Callable[[], bool],
    ready: Callable[[], None],
    alive: Callable[[], None] = lambda: None,
) -> None:
    """Answer what comes to `listener` until `should_stop`; then finish what runs, or cut it after `GRACE_SECONDS`.

    `ready` is called when clients are answered, and `alive` now and then.
    """
    config = uvicorn.Config(
        endpoints.app, log_config=None, access_log=False, lifespan="off", http="h11", ws="none", loop="asyncio",
        server_header=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve([listener]))
    while not server.started and not running.done():
        await asyncio.sleep(POLL_SECONDS)
    if running.done():
        return await running
    ready()
    told = time.monotonic()
    while not should_stop() and not running.done():
        await asyncio.sleep(POLL_SECONDS)
        if time.monotonic() - told > SILENT_SECONDS / 4:
            told = time.monotonic()
            alive()
    desk.close()
    ends = time.monotonic() + GRACE_SECONDS
    while desk.open and time.monotonic() < ends:
        await asyncio.sleep(POLL_SECONDS)
    desk.cut()
    server.should_exit = True
    await running


def opened(settings: Settings, slots: int, gguf: Path) -> StreamingEngine:
    """The engine with `slots`; with `SLOTS`, or as many as fit, where that is 0."""
    try:
        return open_engine(settings.model_copy(update={"slots": slots or SLOTS}), gguf)
    except UsageError:
        if slots:
            raise
        return open_engine(settings.model_copy(update={"slots": 0}), gguf)
