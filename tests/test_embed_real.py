"""Embeddings on SmolLM2: what transformers computes, whatever the batch, with and without an adapter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_models

from minisheep import config
from minisheep.engines.base import EmbedRequest, GenerateRequest, Sampling
from minisheep.errors import WorkerError
from minisheep.rules.prompts import Frame
from minisheep.rules.templates import Segment, chatml
from minisheep.run.records import Instruction, Response
from minisheep.stages.filter import measure
from minisheep.stages.judge import Pair

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

CONTEXT = 768
TEXTS = (
    "Boil the pasta in salted water for nine minutes.",
    "Boil the pasta in salted water for about nine minutes.",
    "Trains to the coast leave every hour from the second platform.",
    "Why is the sky blue? " * 20,
    # Longer than one forward pass.
    " ".join(f"In year {year} the miller sold {year % 17} sacks of flour." for year in range(1900, 1940)),
    "x",
)
ANSWER = "They leave from the second platform at half past every hour."


@dataclass
class Reference:
    """What transformers and PEFT compute in float32: mean vectors without and with the adapter, and a perplexity."""

    vectors: list[Any]
    adapted: list[Any]
    perplexity: float
    adapter: Path


def pair() -> Pair:
    instruction = Instruction(1, "draft", 0, "When do trains leave for the coast?", "", 0.1)
    return Pair(instruction, Response(instruction.id, 0, ANSWER, "end", 12), ANSWER)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    from minisheep.engines.native import Vocabulary
    from minisheep.formats.lora_gguf import convert_adapter
    from minisheep.rules.prompts import answer_prompt
    from minisheep.trainers.base import TrainSettings
    from minisheep.trainers.lora_model import add_lora  # first: it takes the Hub off line

    import torch  # isort: skip
    import transformers  # isort: skip

    gguf = real_models.smollm2()
    folder = tmp_path_factory.mktemp("adapter")
    with Vocabulary.from_file(gguf) as vocabulary:
        texts = [vocabulary.encode((Segment(text),), bos=True) for text in TEXTS]
        asked = vocabulary.encode(answer_prompt(Frame(chatml()), pair().instruction.instruction, ""), bos=True)
        answered = vocabulary.encode((Segment(ANSWER),), bos=False, after=asked[-1])
    assert 512 < len(texts[4]) < CONTEXT
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )

    def means(layers: Any) -> list[Any]:
        return [layers(input_ids=torch.tensor([ids])).last_hidden_state[0].double().mean(0).numpy() for ids in texts]

    with torch.no_grad():
        plain = means(model.model)
        logits = model(input_ids=torch.tensor([asked + answered])).logits[0, len(asked) - 1 : -1]
        likely = torch.log_softmax(logits.double(), -1)[range(len(answered)), answered]
        adapted = add_lora(model, TrainSettings(), gguf.stem).eval()
        generator = torch.Generator().manual_seed(3)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.03, generator=generator)
        moved = means(adapted.get_base_model().model)
    adapted.save_pretrained(folder / "peft", save_embedding_layers=False)
    convert_adapter(folder / "peft", gguf, folder / "adapter.gguf")
    return Reference(plain, moved, math.exp(-float(likely.mean())), folder / "adapter.gguf")


@pytest.fixture(scope="module")
def exact() -> Iterator[Any]:
    """The engine with nothing rounded to less than 32 bits, also when it makes another context."""
    import llama_cpp

    from minisheep.engines.llamacpp import LlamaCppEngine

    make = llama_cpp.llama_init_from_model

    def exactly(model: Any, params: Any) -> Any:
        params.type_k = params.type_v = 0  # GGML_TYPE_F32
        params.flash_attn_type = 0
        return make(model, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_cpp, "llama_init_from_model", exactly)
        found = LlamaCppEngine(real_models.float32_copy(real_models.smollm2()), slots=4, context=CONTEXT)
        yield found
    found.close()


@pytest.fixture
def engine() -> Iterator[Any]:
    from minisheep.engines.llamacpp import LlamaCppEngine

    found = LlamaCppEngine(real_models.smollm2(), slots=4, context=CONTEXT)
    yield found
    found.close()


def vectors(engine: Any, texts: Sequence[str] = TEXTS) -> list[Any]:
    found = {e.id: np.array(e.vector) for e in engine.embed([EmbedRequest(t, (Segment(t),)) for t in texts])}
    return [found[text] for text in texts]


def cosine(a: Any, b: Any) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def off(a: Any, b: Any) -> float:
    """Length of the difference, in lengths of the second."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_vectors_are_the_mean_of_what_transformers_computes(exact: Any, reference: Reference) -> None:
    for found, expected in zip(vectors(exact), reference.vectors, strict=True):
        assert off(found, expected) < 1e-3


def test_an_adapter_moves_vectors_as_it_does_in_peft(exact: Any, reference: Reference) -> None:
    exact.set_adapter(reference.adapter)
    adapted = vectors(exact)
    exact.set_adapter(None)
    back = vectors(exact)
    for found, expected, base, again in zip(adapted, reference.adapted, reference.vectors, back, strict=True):
        assert off(found, expected) < 1e-3 < 0.05 < off(found, base)
        assert off(again, base) < 1e-3


def test_as_the_engine_runs_by_default_vectors_point_the_same_way(engine: Any, reference: Reference) -> None:
    for found, expected in zip(vectors(engine), reference.vectors, strict=True):
        assert cosine(found, expected) > 0.99


def test_a_vector_does_not_depend_on_what_else_is_in_the_batch(exact: Any) -> None:
    many = [f"{text} {number}" for number in range(3) for text in TEXTS] + [f"Number {i}" for i in range(80)]
    together = vectors(exact, many)
    for number in (0, 3, 10, 17, 30, 97):
        (alone,) = vectors(exact, [many[number]])
        assert off(together[number], alone) < 1e-4


def test_an_echo_lies_nearer_than_another_text(engine: Any) -> None:
    text, echo, other = vectors(engine, TEXTS[:3])
    assert np.linalg.norm(text - echo) < 0.5 * np.linalg.norm(text - other)


def test_a_text_beyond_the_context_is_cut_to_it(exact: Any) -> None:
    word = "word" + " word" * (CONTEXT - 1)
    assert len(exact.vocabulary.encode((Segment(word),), bos=True)) == CONTEXT
    before = exact.evaluated
    whole, longer = vectors(exact, [word, word + " word another" * 300])
    assert off(longer, whole) < 1e-4
    assert exact.evaluated - before == 2 * CONTEXT


def test_an_empty_text_has_the_vector_of_the_start(engine: Any) -> None:
    (nothing,) = vectors(engine, [""])
    assert np.linalg.norm(nothing) > 0


def test_the_engine_goes_on_after_embeddings_and_after_some_that_were_dropped(engine: Any) -> None:
    ask = GenerateRequest("a", (Segment("One, two,"),), Sampling(temperature=0, max_tokens=6))
    (before,) = engine.generate([ask])
    found = engine.embed([EmbedRequest(str(i), (Segment(text),)) for i, text in enumerate(TEXTS * 20)])
    next(found)
    with pytest.raises(RuntimeError):
        engine.set_adapter(None)
    found.close()
    assert list(engine.generate([ask])) == [before]
    assert len(vectors(engine)) == len(TEXTS)


def test_an_engine_closed_amid_embeddings_frees_all_and_gives_no_more(engine: Any) -> None:
    found = engine.embed([EmbedRequest(str(i), (Segment(text),)) for i, text in enumerate(TEXTS * 20)])
    next(found)
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        list(found)


def test_where_memory_runs_out_the_error_names_the_slots(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import llama_cpp

    with monkeypatch.context() as patch:
        patch.setattr(llama_cpp, "llama_init_from_model", lambda model, params: None)
        with pytest.raises(WorkerError, match="--slots"):
            vectors(engine)
    with monkeypatch.context() as patch:
        patch.setattr(llama_cpp, "llama_decode", lambda context, batch: -2)
        with pytest.raises(WorkerError, match=r"-2"):
            vectors(engine)
    assert len(vectors(engine)) == len(TEXTS)


def test_perplexity_is_what_transformers_computes(exact: Any, reference: Reference) -> None:
    (verdict,) = measure(exact, config.make({"filter": "ppl"}), Frame(chatml()), [pair()])
    assert verdict.raw["perplexity"] == pytest.approx(reference.perplexity, rel=1e-3)
    assert verdict.score == -verdict.raw["perplexity"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2", "gemma3"])
def test_other_architectures_embed_as_transformers_does(name: str) -> None:
    import minisheep.trainers.lora_model  # noqa: F401  # takes the Hub off line
    from minisheep.engines.llamacpp import LlamaCppEngine

    import torch  # isort: skip
    import transformers  # isort: skip

    gguf = getattr(real_models, name)()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    engine = LlamaCppEngine(gguf, slots=2, context=CONTEXT)
    try:
        for text, found in zip(TEXTS, vectors(engine), strict=True):
            ids = engine.vocabulary.encode((Segment(text),), bos=True)
            with torch.no_grad():
                expected = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0].double().mean(0).numpy()
            assert cosine(found, expected) > 0.99
    finally:
        engine.close()
