"""Decoding from many short prompts, against `create_completion` and against llama.cpp's own server."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.bench_setup import BenchSetup
from benchmarks.measure import Comparison, Target
from benchmarks.peers_llama import PEER_NAME, OneAtATime
from benchmarks.server import Ask, NoServerError, Server, find_server, serve
from benchmarks.turns import alternate, compare_rates
from minisheep.engines.base import Engine, GenerateRequest
from minisheep.engines.llamacpp import LlamaCppEngine
from minisheep.plan.calibration import Turn, decode_requests, timed

SERVER_NAME = "llama-server (llama.cpp)"


def measure(setup: BenchSetup) -> Iterator[Comparison]:
    """New tokens a second, short prompts included, with the file that minisheep chose for this machine."""
    sizes = setup.job.sizes
    gguf = setup.model.inference_gguf
    engine = LlamaCppEngine(gguf, slots=setup.job.slots, context=sizes["context"], threads=setup.threads)
    try:
        slots = engine.info.slots
        sizes_text = (
            f"{sizes['sequences']} sequences of at most {sizes['tokens']} tokens, {slots} slots, {setup.model.format}"
        )
        requests = partial(decode_requests, setup.seeds, sizes["sequences"], sizes["tokens"])
        ours = partial(_generate, engine, requests)
        list(engine.generate(requests(10**6)[:4]))  # touches the weights and starts the threads
        peer = OneAtATime(gguf, context=sizes["context"], threads=setup.threads)
        try:
            list(peer.generate(requests(10**6)[:1]))
            turns = alternate(ours, partial(_generate, peer, requests), setup.job.repeats)
        finally:
            peer.close()
        yield compare_rates("decode", turns, peer_name=PEER_NAME, unit="tokens/s", sizes=sizes_text, target=Target(4.0))
        yield from _against_server(setup, engine, gguf, sizes_text, requests)
    finally:
        engine.close()


def _against_server(
    setup: BenchSetup, engine: LlamaCppEngine, gguf: Path, sizes_text: str, requests: partial[list[GenerateRequest]]
) -> Iterator[Comparison]:
    sizes = setup.job.sizes
    what = "decode, same slots"
    try:
        program = find_server(setup.job.server)
        with serve(
            program, gguf, slots=engine.info.slots, context=engine.info.context, threads=setup.threads,
            log=setup.folder / "server.log",
        ) as server:  # fmt: skip
            name = f"{SERVER_NAME} {server.version()}".strip()
            _ask(server, engine, requests(10**6)[: engine.info.slots])
            turns = alternate(
                partial(_generate, engine, lambda turn: requests(turn + 1000)),
                lambda turn: _ask(server, engine, requests(turn + 1000)),
                setup.job.repeats,
            )
    except NoServerError as error:
        yield Comparison(
            what, None, None, SERVER_NAME, "tokens/s", sizes=sizes_text, note=f"{error.message} {error.fix}".strip(),
            target=Target(1.0),
        )  # fmt: skip
        return
    yield compare_rates(
        what, turns, peer_name=name, unit="tokens/s", sizes=f"{sizes_text}, {sizes['sequences']} requests at once",
        target=Target(1.0),
    )  # fmt: skip


def _generate(engine: Engine, requests: object, turn: int) -> Turn:
    assert callable(requests)
    batch: list[GenerateRequest] = requests(turn)
    return timed(lambda: float(sum(completion.tokens for completion in engine.generate(batch))))


def _ask(server: Server, engine: LlamaCppEngine, requests: list[GenerateRequest]) -> Turn:
    # Tokenised outside the turn: the server gets token ids.
    asks = [Ask(engine.vocabulary.encode(r.prompt, bos=True), r.sampling, r.seed) for r in requests]
    return timed(lambda: float(server.complete(asks)))
