"""The plan's arithmetic against what llama.cpp, autograd and a finished run said, and what it finds to fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from gguf_builder import tiny_gguf

from minisheep import config, phase_times, prepare
from minisheep.config import Settings
from minisheep.engines import budget
from minisheep.errors import MinisheepError, UsageError
from minisheep.machine.gpu import Gpu
from minisheep.models import cache as cache_module
from minisheep.models.registry import load_registry
from minisheep.models.shape import Shape
from minisheep.plan import duration, fit, memory_parts, plan_table
from minisheep.plan.fit import (
    Plan,
    PlannedMachine,
    changes,
    least_context,
    machine_for,
    make_plan,
    recommend,
    with_gpu,
    with_history,
)
from minisheep.plan.gpu_models import COMMON, GIB, find_gpu_model, gpu_models
from minisheep.plan.memory_parts import Inference, TrainingMemory, Weights, format_in_name, uses_more_bits, weights_as
from minisheep.plan.room import Model, known_model

MIB = 2**20


def shape(name: str) -> Shape:
    found = load_registry()[name].shape
    assert found is not None
    return found


GUIDE = (Path(__file__).parent.parent / "docs" / "guide" / "gpu.md").read_text(encoding="utf-8")
QWEN2 = Shape(24, 896, 4864, 14, 2, 64, 151_936, 32_768, tied=False)
"""Of the Qwen2 that the slow tests use."""
SHAPES = {"smollm2": shape("smollm2-135m"), "gemma3": shape("gemma-3-270m"), "qwen2": QWEN2}
ARCHITECTURE = {"smollm2": "llama", "gemma3": "gemma3", "qwen2": "qwen2"}


def settings(model: str = "qwen1.5-7b", **given: Any) -> Settings:
    return config.make({"model": model, **given})


def model(name: str = "qwen1.5-7b") -> Model:
    return known_model(settings(name))


def for_gpu(name: str, **given: Any) -> Plan:
    return make_plan(settings(**given), model(), with_gpu(find_gpu_model(name)))


# The model


def test_every_model_in_the_registry_has_dimensions_that_amount_to_its_parameters() -> None:
    for entry in load_registry().values():
        assert entry.shape is not None
        assert entry.shape.parameters(entry.architecture) == entry.parameters


@pytest.mark.parametrize(
    ("name", "format", "tensors"),
    [
        ("smollm2", "Q4_1", 96_576_768),
        ("smollm2", "Q8_0", 143_025_408),
        ("gemma3", "Q4_K_M", 246_587_904),
        ("qwen2", "Q4_K_M", 485_452_288),
    ],
)
def test_foretold_weights_are_those_of_real_files_to_the_byte(name: str, format: str, tensors: int) -> None:
    assert weights_as(SHAPES[name], ARCHITECTURE[name], format).tensors == tensors


@pytest.mark.parametrize(
    ("name", "format", "file"),
    [("smollm2", "Q4_1", 98_362_432), ("gemma3", "Q4_K_M", 253_113_024), ("qwen2", "Q4_K_M", 491_400_064)],
)
def test_foretold_files_are_within_two_percent(name: str, format: str, file: int) -> None:
    assert weights_as(SHAPES[name], ARCHITECTURE[name], format).file == pytest.approx(file, rel=0.02)


def test_a_mix_is_not_one_format() -> None:
    """Half of the layers have more bits in two of their matrices, so the whole has well over 4.5 bits a weight."""
    assert sum(uses_more_bits(layer, 32) for layer in range(32)) == 16
    found = model()
    assert 4.8 < 8 * found.weights.tensors / found.parameters < 5.0


def test_the_format_of_a_file_is_in_its_name() -> None:
    assert format_in_name("Qwen1.5-7B.Q4_K_M.gguf") == "Q4_K_M"
    assert format_in_name("model-bf16.gguf") == "BF16"
    assert format_in_name("model-IQ3_XXS.gguf") is None


def test_the_embedding_stays_in_ram_unless_it_is_the_output_layer_too() -> None:
    assert Weights("", 0, 100, 30, tied=False).on_gpu == 70
    assert Weights("", 0, 100, 30, tied=True).on_gpu == 100


def test_a_file_that_is_here_is_read_and_not_foretold() -> None:
    path = cache_module.cache_path("gguf", "smollm2-135m", "smollm2-135m-b179c9523d0e.gguf")
    path.write_bytes(tiny_gguf())
    found = model("smollm2-135m")
    assert found.here and found.shape.layers == 2 and found.weights.file == path.stat().st_size


@pytest.mark.parametrize(
    ("hub_id", "listed", "format"),
    [
        ("Qwen/Qwen1.5-7B", "qwen1.5-7b", "Q8_0"),
        ("qwen/qwen1.5-7b@main", "qwen1.5-7b", "Q8_0"),
        ("google/gemma-3-270m", "gemma-3-270m", "Q8_0"),
        ("QuantFactory/SmolLM2-360M-GGUF:SmolLM2-360M.Q4_K_M.gguf", "smollm2-360m", "Q4_K_M"),
    ],
)
def test_a_hub_id_of_a_model_in_the_registry_is_known(hub_id: str, listed: str, format: str) -> None:
    found, entry = model(hub_id), load_registry()[listed]
    assert (found.shape, found.listed, found.weights.format) == (entry.shape, listed, format)
    assert f"--model {listed}" in "\n".join(plan_table.model_lines(found))
    assert model(listed).listed == ""


def test_a_model_without_a_known_gguf_is_planned_in_the_format_that_a_run_converts_it_to() -> None:
    without = [entry.name for entry in load_registry().values() if entry.gguf is None]
    assert without and {model(name).weights.format for name in without} == {prepare.TYPE}


def test_nothing_is_said_of_a_model_that_nothing_is_known_of() -> None:
    with pytest.raises(UsageError, match="minisheep pull"):
        known_model(settings("Org/Some-Model"))


def test_a_speed_that_another_machine_had_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sha = load_registry()["smollm2-135m"].gguf_sha256 or ""
    cache_module.cache_path("gguf", "smollm2-135m", "smollm2-135m-b179c9523d0e.gguf").write_bytes(tiny_gguf())
    record = cache_module.cache_root() / "inference" / f"{sha[:32]}-speed.json"
    record.parent.mkdir(parents=True)
    monkeypatch.setattr("minisheep.machine.cpu.cpuinfo", lambda: "model name\t: Abacus 3\n")
    for machine, expected in (("Abacus 3, 2 threads", {"q8_0": 9.0}), ("Sundial, 2 threads", {})):
        record.write_text(json.dumps({machine: {"q8_0": 9.0}}))
        assert model("smollm2-135m").rates == expected
    record.write_text("{")
    assert model("smollm2-135m").rates == {}


# Memory


def test_full_attention_keeps_half_a_mebibyte_a_token() -> None:
    qwen = shape("qwen1.5-7b")
    assert memory_parts.token_bytes(qwen, budget.F16) == 512 * 1024
    assert memory_parts.token_bytes(qwen, budget.Q8_0) == 272 * 1024
    assert memory_parts.token_bytes(shape("qwen2.5-7b"), budget.F16) == 56 * 1024


@pytest.mark.parametrize(
    ("name", "slots", "context", "cache", "mib"),
    [
        ("smollm2", 16, 2048, budget.F16, 765.00),
        ("smollm2", 16, 1024, budget.Q8_0, 203.20),
        ("smollm2", 63, 1024, budget.F16, 1440.00),
        ("gemma3", 16, 1024, budget.Q8_0, 27.09 + 135.47),
        ("gemma3", 31, 1000, budget.BF16, 96.00 + 480.00),
        ("qwen2", 15, 512, budget.F16, 96.00),
    ],
)
def test_the_kv_cache_is_what_llama_cpp_said(
    name: str, slots: int, context: int, cache: budget.CacheType, mib: float
) -> None:
    parts = memory_parts.inference_parts(
        SHAPES[name], Weights("", 0, 0, 0, True), Inference(slots, context, cache), gpu=False
    )
    (cells,) = (part.bytes for part in parts if part.name == "KV cache")
    assert cells / MIB == pytest.approx(mib, abs=0.01)


@pytest.mark.parametrize(
    ("name", "slots", "context", "mib"),
    [
        ("smollm2", 1, 512, 98.25),
        ("smollm2", 16, 2048, 102.64),
        ("smollm2", 63, 1024, 98.25),
        ("gemma3", 1, 512, 129.88),
        ("gemma3", 63, 1024, 131.13),
        ("qwen2", 1, 512, 130.01),
        ("qwen2", 31, 1024, 130.77),
    ],
)
def test_compute_buffers_are_about_what_llama_cpp_said(name: str, slots: int, context: int, mib: float) -> None:
    assert budget.compute_bytes(SHAPES[name], slots, context) / MIB == pytest.approx(mib, rel=0.04)


def training(**given: Any) -> TrainingMemory:
    values = {"load_in": "bf16", "cuda": False, "float32": False, "rank": 8, "micro_batch": 4, "length": 256}
    return TrainingMemory(**{**values, **given})


@pytest.mark.parametrize(
    ("name", "how", "measured"),
    [
        ("smollm2", training(), 25_081),
        ("smollm2", training(load_in="4bit"), 56_900),
        ("gemma3", training(load_in="4bit"), 82_946),
    ],
)
def test_what_autograd_keeps_of_a_layer_for_a_token_is_what_was_counted(
    name: str, how: TrainingMemory, measured: int
) -> None:
    """Counted by hooks on saved tensors, each storage once. Layers of transformers and peft keep the same for a 4-bit
    base as for a bfloat16 one."""
    assert memory_parts.kept_bytes(SHAPES[name], ARCHITECTURE[name], how) == pytest.approx(measured, rel=0.02)


def test_a_base_in_nf4_is_what_bitsandbytes_held() -> None:
    """SmolLM2: 109,777,536 bytes of parameters and 1,684,800 of scales, without the tables that each layer repeats."""
    base = [p.bytes for p in memory_parts.training_parts(SHAPES["smollm2"], "llama", training(load_in="4bit"))][1:3]
    assert sum(base) == pytest.approx(109_777_536 + 1_684_800, rel=0.001)


def test_checkpointing_on_a_gpu_keeps_one_layer_whole() -> None:
    short, deep = training(cuda=True, load_in="4bit"), shape("qwen1.5-7b")
    parts = {part.name: part.bytes for part in memory_parts.training_parts(deep, "qwen2", short)}
    assert parts["activations kept"] == pytest.approx(1.1 * 1024 * 32 * 4096 * 2)
    assert parts["one layer or the logits"] < 1024 * memory_parts.kept_bytes(deep, "qwen2", short) * 3


def test_a_gpu_without_bfloat16_computes_in_float16_unless_the_model_cannot() -> None:
    def held(name: str, gpu: str) -> int:
        plan = make_plan(settings(name), model(name), with_gpu(find_gpu_model(gpu)))
        return next(p.bytes for p in plan.training if p.name.startswith("base: emb"))

    assert held("qwen1.5-7b", "RTX 2080 Ti") == held("qwen1.5-7b", "RTX 3080")
    assert held("gemma-3-270m", "RTX 2080 Ti") == 2 * held("gemma-3-270m", "RTX 3080")


# What fits


def test_the_paper_model_fits_a_gpu_of_8_gb_in_both_phases() -> None:
    found = recommend(settings(), model(), with_gpu(find_gpu_model("RTX 4060")))
    assert found is not None and found.fits
    assert memory_parts.total(found.training) < 8 * GIB and found.settings.micro_batch_size < 4


@pytest.mark.parametrize("gpu", ["RTX 3060 12GB", "RTX 4090 24GB"])
def test_the_paper_model_runs_with_the_defaults_from_12_gb_on(gpu: str) -> None:
    assert for_gpu(gpu).fits


def test_the_paper_model_does_not_fit_6_gb_and_that_is_said() -> None:
    assert recommend(settings(), model(), with_gpu(find_gpu_model("RTX 2060"))) is None


def test_a_smaller_cache_makes_room_for_more_sequences_and_saves_time() -> None:
    plain, small = for_gpu("RTX 3060"), for_gpu("RTX 3060", kv_type="q8_0")
    assert small.slots > 1.8 * plain.slots
    assert plain.round_seconds and small.round_seconds and small.round_seconds < plain.round_seconds


def test_more_memory_never_means_fewer_sequences_or_more_time() -> None:
    gpu = find_gpu_model("RTX 4090")
    plans = []
    for gib in range(6, 25, 2):
        plans.append(make_plan(settings(), model(), PlannedMachine("", gib * GIB, gpu, True)))
    slots, times = [p.slots for p in plans], [p.round_seconds or 0 for p in plans]
    assert slots == sorted(slots) and times == sorted(times, reverse=True)


def test_what_is_recommended_leaves_the_method_alone() -> None:
    given = settings()
    found = recommend(given, model(), with_gpu(find_gpu_model("RTX 4060")))
    assert found is not None
    assert set(changes(given, found.settings)) <= {"kv_type", "context", "micro_batch_size"}
    assert found.settings.context >= least_context(given)


def test_a_cache_format_that_the_user_chose_is_kept() -> None:
    found = recommend(settings(kv_type="f16"), model(), with_gpu(find_gpu_model("RTX 4060")))
    assert found is not None and found.settings.kv_type == "f16"


def test_given_settings_that_fit_are_recommended_unless_others_are_much_faster() -> None:
    given = settings("smollm2-135m")
    found = recommend(given, model("smollm2-135m"), with_gpu(find_gpu_model("RTX 4090")))
    assert found is not None and changes(given, found.settings) == {}


def test_slots_that_the_user_wants_are_not_lowered_and_may_not_fit() -> None:
    found = for_gpu("RTX 3060", slots=64)
    assert found.slots == 64 and not found.fits_inference


@pytest.mark.parametrize(("gpu", "kv_type"), [("RTX 3060", "f16"), ("RTX 3090", "q8_0"), ("T4", "q8_0")])
def test_the_plan_and_the_engine_decide_about_slots_alike(gpu: str, kv_type: str) -> None:
    """The engine asks the same function, with what is free beside the loaded weights (`Decoder._fitting`)."""
    plan, cache = for_gpu(gpu, kv_type=kv_type), {"f16": budget.F16, "q8_0": budget.Q8_0}[kv_type]
    free = (with_gpu(find_gpu_model(gpu)).memory or 0) - memory_parts.CUDA_CONTEXT - plan.model.weights.on_gpu
    sequence = memory_parts.sequence_bytes(plan.model.shape, plan.settings.context, cache)
    assert plan.slots == budget.fitting_slots(
        64, plan.model.shape, plan.settings.context, cache,
        sequence_bytes=sequence, free_bytes=free, offload=True, rank=8,
    )  # fmt: skip


@pytest.mark.parametrize("gpu", ["RTX 4060 8GB", "RTX 3060 12GB", "T4 16GB", "RTX 3090 24GB", "RTX 4090 24GB"])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_every_part_of_a_plan_fits_together_the_copy_of_a_quantised_cache_and_the_adapter_too(
    gpu: str, kv_type: str
) -> None:
    plan = for_gpu(gpu, kv_type=kv_type)
    parts = {part.name: part.bytes for part in plan.inference}
    copied = 4 * plan.model.shape.kv_width * (plan.slots + 1) * plan.settings.context
    assert parts["copy of a layer's cache"] == (copied if kv_type == "q8_0" else 0)
    assert parts["adapter"] == pytest.approx(76 * MIB, rel=0.01)
    assert plan.fits_inference or plan.slots == 1
    memory = plan.machine.memory
    assert memory is not None
    one_more = memory_parts.total(plan.inference) + memory_parts.sequence_bytes(
        plan.model.shape, plan.settings.context, budget.Q8_0 if kv_type == "q8_0" else budget.F16
    )
    assert plan.slots == budget.GPU_SLOTS or one_more + budget.GPU_MARGIN > memory


# Time, work, disk


def test_a_round_of_the_paper_is_the_work_of_docs_performance() -> None:
    found = {w.phase: w for w in phase_times.round_work(settings(judge="logits"))}
    assert found["respond"].drawn == 1_500_000
    assert found["judge"].drawn == 0 and 2_000_000 < found["judge"].read < 7_000_000
    assert phase_times.kept_examples(settings(judge="logits")) == phase_times.kept_examples(
        settings(judge="sample", keep="threshold:8")
    ) == 300  # fmt: skip
    assert (
        phase_times.kept_examples(settings())
        == phase_times.kept_examples(settings(judge="logits", keep="top:0.3"))
        == 3000
    )


def test_rounds_that_train_on_the_data_of_all_take_longer_up_to_the_limit() -> None:
    def extra(**changed: Any) -> float:
        given = settings("qwen1.5-7b", rounds=3, per_round=1000, keep="top:0.5", **changed)
        plan = make_plan(given, model(), PlannedMachine("a card", 64 * GIB, find_gpu_model("RTX 3090 24GB"), True, 8))
        assert plan.run_seconds is not None and plan.round_seconds is not None and plan.phases is not None
        return (plan.run_seconds - plan.base_seconds - 3 * plan.round_seconds) / dict(plan.phases)["train"]

    assert extra(strategy="one-base") == pytest.approx(0.0, abs=1e-6)
    assert extra(strategy="total-base") == pytest.approx(1 + 2)
    assert extra(strategy="total-base", max_examples=800) == pytest.approx(0.6 + 0.6)
    # And what a machine keeps of such a phase is told by its own work.
    pooled = settings("smollm2-135m", per_round=100, strategy="total-base")
    one, three = (phase_times.phase_time(pooled, number, "train", 50.0, 10.0, ()) for number in (1, 3))
    assert one is not None and three is not None and three.work == pytest.approx(3 * one.work)


def test_a_machine_that_did_the_phases_before_tells_their_times() -> None:
    given = settings("smollm2-135m", per_round=100)
    took = {
        work.phase: phase_times.phase_time(given, 1, work.phase, 50.0, 10.0, ())
        for work in phase_times.round_work(given)
    }
    machine = PlannedMachine("a processor, 2 threads", 64 * GIB, None, True, 2)
    known = dataclasses.replace(
        model("smollm2-135m"), rates={}, history={name: [time] for name, time in took.items() if time}
    )
    plan = make_plan(given, known, machine)
    assert plan.phases is None and plan.run_seconds is None
    told = with_history(plan)
    assert told.phases == [(name, pytest.approx(50.0)) for name in took] and told.base_seconds == pytest.approx(50.0)
    assert told.history == tuple(took)
    assert any("those of earlier runs of this model here" in line for line in plan_table.remarks(told))
    assert plan_table.to_dict(told)["seconds_from_history"] == list(took)
    # Twice the answers take twice the time, but for loading; and one phase without a time leaves the plan as it is.
    twice = with_history(make_plan(settings("smollm2-135m", per_round=200), known, machine))
    assert dict(twice.phases or [])["respond"] == pytest.approx(90.0)
    del known.history["respond"]
    assert with_history(plan) == plan


def test_a_judge_that_replies_draws_tokens() -> None:
    found = {w.phase: w for w in phase_times.round_work(settings(judge="sample"))}
    assert found["judge"].drawn == 10_000 * 2 * phase_times.REPLY


def test_no_phase_is_planned_that_the_settings_leave_out() -> None:
    assert "exam" not in {w.phase for w in phase_times.round_work(settings(exam_tasks=0, judge="logits"))}
    assert "judge" not in {w.phase for w in phase_times.round_work(settings(assess="none"))}


def test_a_faster_gpu_takes_less_time() -> None:
    times = [for_gpu(name).round_seconds or 0 for name in ("RTX 3060", "RTX 3090", "RTX 4090")]
    assert times == sorted(times, reverse=True) and 3600 < times[1] < 5 * 3600


def test_a_plan_says_where_drawing_tokens_is_what_a_gpu_waits_for() -> None:
    """A small model on a fast GPU; a large one on the same leaves its cores idle, and a processor draws in its turn."""
    gpu = with_gpu(find_gpu_model("RTX 4090"))
    small, large = (make_plan(settings(name), model(name), gpu) for name in ("qwen2.5-0.5b", "qwen1.5-7b"))
    assert small.drawing_share > 0.5 > large.drawing_share > 0
    said = [" ".join(plan_table.remarks(plan)) for plan in (small, large)]
    assert f"waits {small.drawing_share:.0%} of the time" in said[0] and "waits" not in said[1]
    assert make_plan(settings(), model(), PlannedMachine("A processor", None, None, bfloat16=True)).drawing_share == 0


def test_the_documents_tell_what_a_plan_counts_for_drawing() -> None:
    """Both that one core writes no more, and what it was measured with: `python -m benchmarks.drawing`."""
    core = f"{1000 * duration.DRAW_SECONDS:g} ms of"
    assert f"adds {core} a processor's core" in GUIDE
    assert f"more than {round(1 / duration.DRAW_SECONDS, -2):,.0f} tokens/s" in GUIDE
    documents = Path(__file__).parent.parent / "docs"
    assert f"takes {core} one processor core" in (documents / "memory.md").read_text(encoding="utf-8")
    measured = (
        (documents / "performance.md").read_text(encoding="utf-8").split("## Drawing tokens")[1].split("\n## ")[0]
    )
    rows = [line.split("|") for line in measured.splitlines() if line.startswith("| ") and "64 different" in line]
    ours = [float(cells[4]) for cells in rows]
    assert len(ours) == 4 and max(ours) == pytest.approx(1e6 * duration.DRAW_SECONDS, rel=0.2)


@pytest.mark.parametrize(
    ("tokens", "published"),
    [(16, 1946), (32, 3358), (64, 5349), (128, 6901), (256, 8555), (512, 9279)],
)
def test_a_pass_takes_what_was_published_of_llama_cpp_on_an_rtx_4090(tokens: int, published: int) -> None:
    """An 8B in Q4_K_S (4.69 GB) without a cache to read; what is drawn costs nothing there."""
    weights = Weights("Q4_K_S", 0, 4_690_000_000, 295_000_000, tied=False)
    speed = duration.GpuSpeed(find_gpu_model("4090"), shape("llama-3-8b"), weights, 0, tokens)
    seconds = speed.step_seconds(tokens, 0) - tokens * duration.DRAW_SECONDS
    assert tokens / seconds == pytest.approx(published, rel=0.08)


@pytest.mark.parametrize(
    ("gpu", "name", "format", "tokens", "published"),
    [
        ("RTX 3090", "llama-3-8b", "Q4_0", 1, 157),
        ("RTX 3090", "llama-3-8b", "Q4_0", 8, 584),
        ("RTX 4090", "llama-3-8b", "Q4_0", 16, 1931),
        ("RTX 3080", "llama-3-8b", "Q4_K_M", 1, 112),
        ("L4", "qwen2.5-7b", "Q4_K_M", 1, 47),
        ("RTX 4060 Laptop", "llama-3-8b", "Q4_K_M", 1, 47),
        ("RTX 3090", "llama-3-8b", "Q6_K", 512, 3491),
    ],
)
def test_the_guide_tells_how_far_rates_are_from_published_ones(
    gpu: str, name: str, format: str, tokens: int, published: int
) -> None:
    entry = load_registry()[name]
    weights = weights_as(shape(name), entry.architecture, format)
    speed = duration.GpuSpeed(find_gpu_model(gpu), shape(name), weights, 0, tokens)
    rate = tokens / (speed.step_seconds(tokens, 0) - tokens * duration.DRAW_SECONDS)
    assert f"| {rate:,.0f} | {published:,} | {rate / published:.2f} |" in GUIDE
    assert 0.8 < rate / published < 1.65


@pytest.mark.parametrize(
    ("gpu", "name", "published"), [("4090", "llama-3-8b", 2413), ("A100 80GB", "qwen1.5-7b", 2341)]
)
def test_the_guide_tells_how_far_training_is_from_published_rates(gpu: str, name: str, published: int) -> None:
    speed = duration.GpuSpeed(find_gpu_model(gpu), shape(name), weights_as(shape(name), "llama", "Q4_K_M"), 0, 1)
    rate = 1e6 / speed.seconds(duration.PhaseTokens("train", trained=1_000_000))
    assert f"| {rate:,.0f} | {published:,} | {rate / published:.2f} |" in GUIDE


def test_the_guide_tells_how_far_memory_is_from_published_peaks() -> None:
    def peak(name: str, rank: int, batch: int, length: int) -> int:
        how = TrainingMemory("4bit", True, False, rank, batch, length)
        architecture = load_registry()[name].architecture
        return memory_parts.total(memory_parts.training_parts(shape(name), architecture, how))

    for took, published in ((peak("llama-3-8b", 8, 2, 2048) / GIB, 7.4), (peak("qwen1.5-7b", 64, 1, 2048) / 1e9, 13.9)):
        assert f"| {took:.1f} | {published} | {took / published:.2f} |" in GUIDE
    longest = max(length for length in range(20_000, 23_000, 16) if peak("llama-3-8b", 32, 1, length) < 24 * GIB)
    assert f"| {longest:,} | 78,475 | {longest / 78_475:.2f} |" in GUIDE


def test_no_time_is_claimed_for_a_processor_that_was_never_tried() -> None:
    found = make_plan(settings(), model(), PlannedMachine("cpu", 64 * GIB, None, True, 2))
    assert found.phases is None and found.run_seconds is None


DEMO_ROUND = 19_738_000
"""Bytes of a round of the demo on SmolLM2: adapter.gguf, adapter/ and the records of 30 instructions."""


def test_the_disk_of_a_round_is_that_of_a_finished_run() -> None:
    demo = config.make({}, "imitation")
    assert fit.round_bytes(demo, SHAPES["smollm2"]) == pytest.approx(DEMO_ROUND, rel=0.03)


def test_records_are_about_those_of_a_finished_run() -> None:
    """52 kB of records of 30 instructions, and 22 kB of measurements."""
    demo = config.make({}, "imitation")
    records = fit.round_bytes(demo, SHAPES["smollm2"]) - fit.adapter_bytes(demo, SHAPES["smollm2"])
    assert records == pytest.approx(52_000 + 22_000, rel=0.3)


# GPUs


@pytest.mark.parametrize("name", [gpu.title for gpu in gpu_models()])
def test_every_gpu_is_found_by_its_title(name: str) -> None:
    assert find_gpu_model(name).title == name


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("RTX 3060 12GB", "RTX 3060 12GB"),
        ("NVIDIA GeForce RTX 3060", "RTX 3060 12GB"),
        ("rtx3060 12 gb", "RTX 3060 12GB"),
        ("4090", "RTX 4090 24GB"),
        ("3060ti", "RTX 3060 Ti 8GB"),
        ("RTX 4060 Ti 16 GiB", "RTX 4060 Ti 16GB"),
        ("NVIDIA L4", "L4 24GB"),
        ("Tesla T4", "T4 16GB"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090 32GB"),
        ("5070 ti", "RTX 5070 Ti 16GB"),
        ("4070 super", "RTX 4070 SUPER 12GB"),
        ("4080s", "RTX 4080 SUPER 16GB"),
        ("rtx-5090-laptop", "RTX 5090 Laptop 24GB"),
        ("NVIDIA GeForce RTX 3080 Ti Laptop GPU", "RTX 3080 Ti Laptop 16GB"),
        ("rtx 4090 mobile", "RTX 4090 Laptop 16GB"),
        ("A100", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("NVIDIA H100 PCIe", "H100 PCIe 80GB"),
        ("Tesla V100-SXM2-16GB", "V100 16GB"),
        ("l40s", "L40S 48GB"),
        ("a6000", "RTX A6000 48GB"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada 48GB"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 96GB"),
    ],
)
def test_a_gpu_is_found_however_its_name_is_written(name: str, title: str) -> None:
    assert find_gpu_model(name).title == title


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("RTX 3059", "RTX 3060 12GB"),
        ("RTX 5090 Ti", "RTX 5090 32GB"),
        ("RTX 6090 48GB", "RTX 5090 32GB"),
        ("B300", "B200 180GB"),
        ("GTX 1080 Ti", "RTX 20"),
        ("A800 80GB", "A100 80GB"),
        ("Voodoo 2", "same memory and generation"),
        ("", "same memory and generation"),
        ("\x1b]0;owned\x07", "same memory and generation"),
        ("x" * 5000, "same memory and generation"),
        ("Apple M4 Max", "Apple's GPUs are not planned for"),
        ("m2", "Apple's GPUs are not planned for"),
        ("RX 7900 XTX", "AMD's GPUs are not planned for"),
        ("MI300X", "AMD's GPUs are not planned for"),
        ("Arc B580", "Intel's GPUs are not planned for"),
    ],
)
def test_an_unknown_gpu_is_refused_with_the_nearest_of_its_family(name: str, near: str) -> None:
    with pytest.raises(UsageError) as refused:
        find_gpu_model(name)
    said = f"{refused.value.message} {refused.value.fix}"
    assert near in said.partition("nearest are")[2] or near in said
    assert "RTX 2060" not in said or name.startswith("GTX")


def test_a_gpu_of_another_size_is_not_taken_for_it() -> None:
    with pytest.raises(UsageError, match=r"12 GB.* 24 GB"):
        find_gpu_model("RTX 3060 24GB")


def test_every_gpu_is_as_a_data_sheet_could_have_it() -> None:
    """A slip of a digit shows: what a card reads in its memory and computes of it is of one order for all."""
    titles = [gpu.title for gpu in gpu_models()]
    assert len(set(titles)) == len(titles)
    for gpu in gpu_models():
        assert 0.9 * gpu.memory <= gpu.usable <= gpu.memory, gpu.title
        assert 40 < gpu.half / gpu.bandwidth < 500 and 1 <= gpu.half / gpu.training <= 2.01, gpu.title
        old = gpu.name.startswith(("RTX 20", "T4", "V100", "TITAN", "Quadro")) and not gpu.name.endswith("Ada")
        assert gpu.bfloat16 != old, gpu.title


def test_the_common_gpus_are_known_and_go_from_6_to_40_gb() -> None:
    sizes = [find_gpu_model(name).memory // GIB for name in COMMON]
    assert sizes == sorted(sizes) and (sizes[0], sizes[-1]) == (6, 40)


def test_a_gpu_that_is_here_and_has_no_cuda_is_said() -> None:
    machine, told = machine_for(None, 0, Gpu("Voodoo 2", None, 2**23, 0))
    assert not machine.is_gpu and "Voodoo 2" in told


@pytest.mark.parametrize(
    ("name", "capability", "mib", "known"),
    [
        ("Tesla T4", (7, 5), 15_360, True),
        ("NVIDIA L4", (8, 9), 23_034, True),
        ("NVIDIA GeForce RTX 5090", (12, 0), 32_607, True),
        ("NVIDIA H200", (9, 0), 143_771, True),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", (8, 9), 16_376, True),
        ("NVIDIA GeForce RTX 6090", (13, 0), 49_140, False),
    ],
)
def test_a_gpu_that_is_here_is_planned_for_and_never_a_processor_in_its_place(
    name: str, capability: tuple[int, int], mib: int, known: bool
) -> None:
    machine, told = machine_for(None, 0, Gpu(name, capability, mib * MIB, 0))
    assert machine.gpu is not None and machine.gpu.memory == mib * MIB
    assert machine.bfloat16 == (capability >= (8, 0)) and ("not in the table" in told) != known


def test_an_unknown_gpu_that_is_here_gets_the_speed_of_its_own_family() -> None:
    machine, told = machine_for(None, 0, Gpu("NVIDIA GeForce RTX 6090", (13, 0), 49_140 * MIB, 0))
    assert machine.gpu is not None and machine.gpu.bandwidth == find_gpu_model("RTX 5090").bandwidth
    assert "times are those of an RTX 5090 32GB" in told


def test_the_memory_that_error_correction_takes_is_not_planned_with() -> None:
    told = machine_for(None, 0, Gpu("Tesla T4", (7, 5), 15_360 * MIB, 0))[0].memory
    assert told is not None and with_gpu(find_gpu_model("T4")).memory == pytest.approx(told, rel=0.01)


def test_a_gpu_that_is_here_has_the_memory_that_its_driver_tells() -> None:
    machine, _ = machine_for(None, 0, Gpu("NVIDIA GeForce RTX 4060 Ti", (8, 9), 16_380 * MIB, 0))
    assert machine.gpu is not None and machine.gpu.memory == 16_380 * MIB
    assert machine.gpu.bandwidth == find_gpu_model("RTX 4060 Ti 16GB").bandwidth


# Every registered model


@pytest.mark.parametrize("name", list(load_registry()))
def test_every_model_can_be_planned_and_fits_the_largest_gpu_or_says_so(name: str) -> None:
    try:
        found = recommend(settings(name), model(name), with_gpu(find_gpu_model("RTX 4090")))
    except MinisheepError as error:
        pytest.fail(str(error))
    assert found is None or found.fits
    assert found is not None or "14b" in name
