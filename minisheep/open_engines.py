"""The engines that settings name, opened: a server's, and this machine's, on files whose headers were read first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from minisheep.config import Settings
from minisheep.engines.base import Engine, EngineInfo, StreamingEngine
from minisheep.errors import ModelFileError
from minisheep.formats.gguf_header import read_header
from minisheep.run.events import Emit, EngineReady, Note

if TYPE_CHECKING:
    from minisheep.engines.openai import RemoteEngine


def open_server(settings: Settings, gguf: Path, run: Path) -> RemoteEngine:
    """The engine at the server that the settings of the folder `run` name; of the GGUF, it reads the vocabulary.

    Raises `errors.UsageError` if the user gave no such server, and if the variable named for the key is empty.
    """
    from minisheep.engines.native import Vocabulary
    from minisheep.engines.openai import RemoteEngine, server
    from minisheep.engines.permission import check_permitted

    check_permitted(settings, run)
    read_header(gguf)
    return RemoteEngine(
        Vocabulary.from_file(gguf),
        server(settings),
        settings.engine_model,
        slots=settings.slots,
        context=settings.context,
        hook=settings.engine_hook,
    )


def tell_engine(info: EngineInfo, emit: Emit, more: str = "") -> None:
    """Tell which engine is ready, with `more` about it, and what it warns of."""
    emit(EngineReady(info.backend, info.description + more))
    if info.warning:
        emit(Note(info.warning, "warning"))


def put_adapter(engine: Engine, adapter: Path | None) -> None:
    """Hot-load the adapter GGUF of a round, or none; its header is checked before native code maps it.

    Raises `errors.ModelFileError` and what the engine raises.
    """
    if adapter is not None and engine.info.backend != "fake":
        try:
            read_header(adapter)
        except ModelFileError as error:
            fix = "Restore it from a copy; `minisheep status RUN` may say what makes it again."
            raise ModelFileError(error.message, fix) from None
    engine.set_adapter(adapter)


def open_engine(settings: Settings, gguf: Path, slot_share: float = 1.0) -> StreamingEngine:
    """The engine of this machine with a share of the usual slots, on a GGUF whose header is checked first: model.json
    may name any file. The fake one needs no file. Raises `errors.ModelFileError` and what the engine raises."""
    if settings.engine == "fake":
        from minisheep.engines.fake_engine import FakeEngine

        return FakeEngine(slots=max(1, settings.slots))
    read_header(gguf)
    from minisheep.engines.llamacpp import LlamaCppEngine

    return LlamaCppEngine(
        gguf,
        slots=settings.slots,
        context=settings.context,
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
        kv_type=settings.kv_type,
        adapter_rank=settings.lora_rank,
        slot_share=slot_share,
    )
