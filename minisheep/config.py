"""Every setting, once: its type, default, limits and what it means.

The command line's flags, the keys of ``--config run.toml`` and the keyword arguments of `minisheep.align` are all
made from this one class: ``answer_max_tokens`` is ``--answer-max-tokens`` is ``answer_max_tokens = 200``. The defaults
are minisheep's own and make the preset ``default``; many are those of the paper (arXiv 2408.08072, section 3 and
appendix E). The preset ``paper`` is as close to it as minisheep gets; docs/guide/paper.md lists what differs. Settings
are resolved once, when a run is made, and kept in the run folder.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from minisheep.data.languages import language_code
from minisheep.data.seed_tasks import read_file, read_table
from minisheep.errors import ConfigError, RunMismatchError
from minisheep.presets import with_preset
from minisheep.rules.data_settings import asking_contradictions, loss_contradictions
from minisheep.rules.keep import GRADED as GRADED
from minisheep.rules.keep import Keep as Keep
from minisheep.rules.log_targets import log_targets

MIN_EXAM = 8
"""Fewest seed tasks for an exam: half of them are used for fitting."""
Positive = Annotated[int, Field(ge=1, le=10**9)]
Rounds = Annotated[int, Field(ge=1, le=1000)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Probability = Annotated[float, Field(gt=0.0, le=1.0)]


def setting(default: Any, group: str, description: str, *, changeable: bool = False) -> Any:
    """A setting of `group`; a `changeable` one may differ when a run is continued, since finished work stays valid."""
    return Field(default=default, description=description, json_schema_extra={"group": group, "changeable": changeable})


class Settings(BaseModel):
    """All settings of a run. Immutable; raises `errors.ConfigError` through `make` for anything wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # what to align
    model: str = setting("smollm2-135m", "model", "a name from `minisheep models`, a hub id (org/repo) or a GGUF file")
    gguf: str = setting("", "model", "another GGUF for inference: a file, or org/repo:file.gguf")
    weights: str = setting("", "model", "other weights for training: a folder with safetensors, or a hub id")
    template: Literal["auto", "model", "chatml", "llama-3", "plain"] = setting(
        "auto", "model", "chat template of the trained model; auto: the registry's, else the model's own, else plain"
    )
    kind: Literal["auto", "base", "instruct"] = setting(
        "auto",
        "model",
        "a base model is asked in plain text until its first training; auto: as the registry says, else base if the"
        " file holds no chat template",
    )

    # the loop
    rounds: Rounds = setting(3, "loop", "rounds of self-alignment (the paper's T)", changeable=True)
    per_round: Positive = setting(10_000, "loop", "instructions that the model writes in a round (the paper's I)")
    strategy: Literal["one-base", "one-last", "total-base", "direct"] = setting(
        "one-base",
        "loop",
        "one-base: each round trains the base on its own data; one-last: goes on with the last adapter; total-base:"
        " trains the base on all data so far; direct: one round",
    )
    patience: Annotated[int, Field(ge=0)] = setting(
        2, "loop", "stop after this many measured rounds without a gain beyond chance; 0: never", changeable=True
    )
    seed: Annotated[int, Field(ge=0)] = setting(1, "loop", "every random choice follows from it")

    # writing instructions
    seeds: str = setting("", "generate", "file of seed tasks (docs/guide/seeds.md); empty: minisheep's own")
    prompts: str = setting("", "generate", "folder with prompt files that replace minisheep's own")
    shots: Annotated[int, Field(ge=1, le=20)] = setting(5, "generate", "seed tasks shown in each few-shot prompt")
    samples_per_prompt: Annotated[int, Field(ge=1, le=64)] = setting(
        4, "generate", "lists drawn from each few-shot prompt; more are faster and less varied"
    )
    generate_temperature: Annotated[float, Field(ge=0, le=5)] = setting(1.0, "generate", "temperature for instructions")
    generate_top_p: Probability = setting(0.95, "generate", "nucleus for instructions")
    generate_max_tokens: Positive = setting(1000, "generate", "new tokens in one list of instructions")
    novelty: Share = setting(
        0.7, "generate", "drop an instruction whose ROUGE-L with a seed or an earlier one is above this"
    )

    # answering
    answer_shots: Annotated[int, Field(ge=0, le=16)] = setting(
        0, "respond", "solved seed tasks shown before each instruction answered, see --show; 0: none, as in the paper"
    )
    answer_temperature: Annotated[float, Field(ge=0, le=5)] = setting(1.0, "respond", "temperature for answers")
    answer_top_p: Probability = setting(0.95, "respond", "nucleus for answers")
    answer_max_tokens: Positive = setting(1000, "respond", "new tokens in one answer")
    answers: Annotated[int, Field(ge=1, le=16)] = setting(
        1, "respond", "answers drawn for each instruction; only the best one can be kept"
    )
    show: Literal["first", "every", "never"] = setting(
        "first",
        "respond",
        "when --answer-shots are shown: first: to a base model in its first round; every: in every round, drawn anew,"
        " as earlier turns where the model has a template; never",
    )
    answer_model: Literal["current", "base"] = setting(
        "current", "respond", "the model that answers: the round's, or the base"
    )
    constraints: Share = setting(
        0.0,
        "constraints",
        "share of the instructions that get a constraint on their answer, which a program checks: what passes is kept",
    )
    constraint_file: str = setting("", "constraints", "constraints in a TOML file; empty: minisheep's own")
    hindsight: Share = setting(
        0.0, "constraints", "at most this share of other kept answers get a constraint that they keep, read off them"
    )
    constraint_control: Literal["none", "exchanged"] = setting(
        "none",
        "constraints",
        "for experiments; exchanged: training sees each checked answer with another one's constraint, so that only the"
        " link between the two is cut",
    )

    # judging and keeping
    judge: Literal["auto", "logits", "sample", "pmi"] = setting(
        "auto",
        "judge",
        "auto: the best that passes an exam; logits: read the score distribution; sample: ask and parse, as the paper"
        " does; pmi: likelihood evidence",
    )
    judge_model: Literal["current", "base"] = setting(
        "current", "judge", "the model that judges: the round's, or the base, as in the paper's public code"
    )
    judge_prompt: Literal["simple", "combined", "icl"] = setting(
        "combined",
        "judge",
        "simple: one question; combined: both measures explained, one asked; icl: three scored examples first",
    )
    assess: Literal["none", "quality", "following", "both"] = setting(
        "both", "judge", "criteria that count; none: every pair that passes the rules is kept"
    )
    keep: Annotated[Keep, PlainValidator(Keep.parse), PlainSerializer(str)] = setting(
        Keep("auto"),
        "judge",
        "threshold:8 keeps what scores above 8 by all criteria (the paper); top:0.3 keeps the best three tenths; auto:"
        " the first for a judge that gives grades, the second for others",
        changeable=True,
    )
    filter: Literal["score", "ppl", "density", "density+ppl"] = setting(
        "score",
        "judge",
        "score: by the judge; ppl: drops a perplexity above --max-perplexity; density: one pair of each cluster;"
        " density+ppl: the one of lowest perplexity",
    )
    max_perplexity: Annotated[float, Field(gt=1)] = setting(50.0, "judge", "limit of --filter ppl")
    clusters: Positive = setting(3000, "judge", "clusters of --filter density; at most three tenths of the pairs")
    rules: Literal["on", "paper", "off"] = setting(
        "on",
        "judge",
        "heuristics for answers; paper: without those against loops, copies and endless answers, which are minisheep's,"
        " and whole answers are judged, not cut at their natural end; off: drop only empty ones",
    )
    exam_tasks: Annotated[int, Field(ge=0)] = setting(
        40, "judge", "seed tasks that the judge is examined on before each round; 0: no exam"
    )
    exam_auc: Share = setting(0.8, "judge", "AUC that a judge must reach over all kinds of corrupted answers to pass")
    exam_kind: Share = setting(0.5, "judge", "AUC that it must reach for each kind")
    force: bool = setting(False, "judge", "go on with a judge that failed its exam", changeable=True)
    language: Annotated[str, PlainValidator(language_code)] = setting(
        "en", "judge", "language of the run, code or name: its own seeds, prompts and rules where there are any"
    )

    # training
    trainer: Literal["auto", "peft", "unsloth", "fake"] = setting(
        "auto",
        "train",
        "what trains the adapter; auto: unsloth on an NVIDIA GPU that it supports, else peft",
        changeable=True,
    )
    load_in: Literal["auto", "4bit", "bf16", "fp32"] = setting(
        "auto", "train", "precision of the frozen base; auto: 4bit (NF4) on CUDA, else bf16 where the CPU has it"
    )
    lora_rank: Annotated[int, Field(ge=1, le=512)] = setting(8, "train", "rank of the adapter")
    lora_alpha: Annotated[float, Field(gt=0)] = setting(16.0, "train", "scale of the adapter is alpha / rank")
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = setting(0.05, "train", "dropout on the adapter's input")
    rslora: bool = setting(False, "train", "rank-stabilised scale: alpha / sqrt(rank)")
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = setting(5e-5, "train", "peak learning rate, cosine to zero")
    warmup_steps: Annotated[int, Field(ge=0)] = setting(20, "train", "steps of linear warm-up")
    epochs: Positive = setting(2, "train", "passes over the kept examples")
    batch_size: Positive = setting(16, "train", "examples in one optimizer step")
    micro_batch_size: Positive = setting(4, "train", "examples in one forward pass", changeable=True)
    max_length: Annotated[int, Field(ge=16)] = setting(1024, "train", "tokens of an example, instruction included")
    max_examples: Positive = setting(3000, "train", "kept examples that a round trains on, at most")
    take: Literal["best", "first"] = setting(
        "best", "train", "which of them, if more were kept: the best, or the first that were made, as the paper does"
    )
    validation: Annotated[float, Field(ge=0, lt=0.9)] = setting(
        0.1, "train", "share of the examples held back to choose the best checkpoint"
    )
    checkpoint_seconds: Annotated[float, Field(gt=0)] = setting(
        60.0, "train", "at most this much training is lost in a crash", changeable=True
    )
    loss: Literal["sft", "orpo", "dpo"] = setting(
        "sft",
        "train",
        "sft: likelihood of what was kept; orpo: that, and its odds against a worse answer; dpo: pairs of answers"
        " alone, against the base. orpo and dpo train without dropout",
    )
    prefer: Literal["checked", "judged", "shown"] = setting(
        "checked",
        "train",
        "the worse answer of a pair; checked: one that fails its constraint; judged: the one that the judge likes"
        " least; shown: what the model answers without the solved tasks of --answer-shots",
    )
    preference_beta: Annotated[float, Field(gt=0, le=10)] = setting(
        0.1, "train", "orpo: weight of the odds; dpo: how little the model may leave its base"
    )
    mix_seeds: Annotated[float, Field(ge=0, lt=1)] = setting(
        0.0,
        "train",
        "share of the training examples that are seed tasks, written by people; 0: the model trains on its own data"
        " alone",
    )

    # measuring
    eval_every: Positive = setting(
        1, "evaluate", "rounds from one measurement to the next; the last is always measured", changeable=True
    )
    eval_tasks: Positive = setting(75, "evaluate", "held-out seed tasks whose answers are scored")
    eval_answers: Annotated[int, Field(ge=0)] = setting(
        75, "evaluate", "held-out tasks that the model answers greedily"
    )
    eval_max_tokens: Positive = setting(256, "evaluate", "new tokens in a greedy answer")
    eval_verifiable: Annotated[int, Field(ge=0)] = setting(
        157, "evaluate", "instructions with constraints that a program can check (all 157, or fewer)"
    )
    eval_verifiable_max_tokens: Positive = setting(256, "evaluate", "new tokens in an answer to such an instruction")

    # the machine
    engine: Literal["llamacpp", "openai", "fake"] = setting(
        "llamacpp", "engine", "what runs inference; openai: a server that speaks OpenAI's API, see --engine-url"
    )
    engine_url: str = setting(
        "",
        "server",
        "the server's API, such as http://localhost:8000/v1 (vLLM, SGLang, llama.cpp's server); it runs the same model",
        changeable=True,
    )
    engine_model: str = setting("", "server", "what the server calls that model", changeable=True)
    engine_key_env: str = setting("", "server", "environment variable that holds the server's key", changeable=True)
    engine_hook: str = setting(
        "",
        "server",
        "program that loads a round's adapter on the server, given the round's folder or the word base; empty: what"
        " needs an adapter, and all measuring, runs on this machine",
    )
    engine_timeout: Annotated[float, Field(gt=0)] = setting(
        600.0, "server", "seconds that one request to the server may take", changeable=True
    )
    slots: Annotated[int, Field(ge=0, le=255)] = setting(
        0, "engine", "sequences decoded together; 0: chosen for the machine (16 requests at a server)", changeable=True
    )
    context: Annotated[int, Field(ge=256)] = setting(2048, "engine", "tokens that one sequence can hold")
    kv_type: Literal["auto", "f16", "q8_0"] = setting(
        "auto",
        "engine",
        "number format of the KV cache; q8_0 takes half the memory; auto: f16, or bf16 on a CPU that multiplies it",
        changeable=True,
    )
    threads: Annotated[int, Field(ge=0)] = setting(0, "engine", "CPU threads; 0: all that are free", changeable=True)
    gpu_layers: int = setting(-1, "engine", "layers on the GPU; -1: all", changeable=True)
    rehearsal: bool = setting(
        True, "engine", "on a GPU, try a full batch and one training step before a run begins", changeable=True
    )
    log_to: Annotated[str, PlainValidator(log_targets)] = setting(
        "", "engine", "also show the run in tensorboard, wandb or trackio (several: a,b); none: stop", changeable=True
    )

    @model_validator(mode="after")
    def _settings_agree(self) -> Settings:
        for contradiction in self._contradictions():
            raise ValueError(contradiction)
        return self

    def _contradictions(self) -> Iterator[str]:
        """Settings that are each valid but contradict each other."""
        if (self.engine == "fake") != (self.trainer == "fake"):
            yield "--engine fake and --trainer fake belong together: neither runs a model"
        if self.strategy == "direct" and self.rounds != 1:
            yield f"--strategy direct is one round of --per-round instructions, and --rounds is {self.rounds}"
        if not self.judges:
            cause, why = "--assess none", "gives no scores"
            if self.filter != "score":
                cause, why = f"--filter {self.filter}", "uses no scores"
            if self.keep.kind != "auto":
                yield f"{cause} {why}, so --keep {self.keep} has no effect; leave one out"
            if self.answers > 1 and not self.constraints:
                yield (
                    f"--answers {self.answers} keeps the best judged, and {cause} judges none; leave one out, or give"
                    " --constraints, where a program judges"
                )
        if self.judge == "pmi" and self.assess in ("quality", "following"):
            yield f"--judge pmi has no criteria, so --assess {self.assess} has no effect; leave one out"
        if self.judge == "pmi" and self.judge_prompt != "combined":
            yield f"--judge pmi asks no question, so --judge-prompt {self.judge_prompt} has no effect; leave one out"
        if self.judges and self.judge == "auto" and self.exam_tasks < MIN_EXAM:
            yield f"--judge auto needs --exam-tasks {MIN_EXAM} or more to choose by"
        yield from asking_contradictions(self)
        yield from self._server_contradictions()
        yield from loss_contradictions(self)
        if self.keep.kind == "threshold":
            if self.judge == "auto":
                yield (
                    f"--keep {self.keep} is on the scale of grades, and --judge auto may choose a judge that gives"
                    " none; use --keep top:0.3, or name the judge"
                )
            if self.judge == "pmi" and self.keep.value > 3:
                yield (
                    f"--keep {self.keep} keeps nothing with --judge pmi, whose scores are nats per token and seldom"
                    " above 3; use --keep top:0.5"
                )
            if self.judge not in ("auto", "pmi") and self.keep.value >= 10:
                yield f"--keep {self.keep} keeps nothing: scores end at 10 and must be above it"
        for name in ("generate_max_tokens", "answer_max_tokens", "eval_max_tokens", "eval_verifiable_max_tokens"):
            if getattr(self, name) >= self.context:
                yield f"{flag(name)} {getattr(self, name)} does not fit --context {self.context}"

    def _server_contradictions(self) -> Iterator[str]:
        """Contradictions between --engine and the settings of a server."""
        server = ("engine_url", "engine_model", "engine_key_env", "engine_hook")
        given = [name for name in server if getattr(self, name)]
        if self.engine != "openai":
            if given:
                yield f"{flag(given[0])} is for --engine openai, and --engine is {self.engine}"
            return
        for name in ("engine_url", "engine_model"):
            if name not in given:
                yield f"--engine openai needs {flag(name)} (as in --engine-url http://localhost:8000/v1)"
        if self.filter.startswith("density"):
            yield f"--engine openai gives no embeddings, which --filter {self.filter} needs"

    @property
    def judges(self) -> bool:
        """Whether the model judges its pairs at all."""
        return self.filter == "score" and self.assess != "none"

    @property
    def answers_drawn(self) -> tuple[int, int]:
        """About how many answers a round draws for its instructions without a constraint, and for those with one."""
        constrained = round(self.per_round * self.constraints)
        return (self.per_round - constrained) * (self.answers if self.judges else 1), constrained * self.answers

    @property
    def criteria(self) -> tuple[str, ...]:
        """The criteria that count, in the order in which they are asked."""
        return {"none": (), "both": ("quality", "following")}.get(self.assess, (self.assess,))


def flag(name: str) -> str:
    """How a setting is written on the command line."""
    return "--" + name.replace("_", "-")


def names() -> list[str]:
    return list(Settings.model_fields)


def group_of(name: str) -> str:
    return str(_extra(name)["group"])


def is_changeable(name: str) -> bool:
    """Whether a run may be continued with another value."""
    return bool(_extra(name)["changeable"])


def choices_of(name: str) -> tuple[str, ...]:
    """The allowed words of a setting that is one of a few words, else nothing."""
    args = get_args(Settings.model_fields[name].annotation)
    return tuple(args) if args and all(isinstance(a, str) for a in args) else ()


def make(given: Mapping[str, Any], preset: str = "", base: Settings | None = None) -> Settings:
    """Settings over those of a preset, or of `base`, a run's stored ones; with neither, as the class has them.

    Raises `errors.ConfigError` that names every fault at once, with the nearest valid name for an unknown one.
    """
    check_names(given)
    try:
        return Settings(**({**dict(base), **given} if base else with_preset(given, preset) if preset else given))
    except ValidationError as error:
        raise ConfigError("; ".join(_fault(e) for e in error.errors()) + ".", "Nothing was started.") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file. Raises `errors.ConfigError` for a missing, broken or unknown one."""
    content, _ = read_file(str(path), "", "settings file", ConfigError)
    data = read_table(content, str(path), ConfigError, "")
    check_names([name for name in data if name != "preset"], where=f" in {path}")
    return data


def check_names(given: Iterable[str], where: str = "") -> None:
    """Raises `errors.ConfigError` for settings that do not exist, each with the nearest one that does."""
    known = names()
    faults = []
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.5)
            faults.append(f"unknown setting {name!r}{where}" + (f" (nearest: {near[0]})" if near else ""))
    if faults:
        raise ConfigError("; ".join(faults) + ".", "`minisheep align --help` lists all settings.")


def continued(stored: Settings, given: Mapping[str, Any]) -> Settings:
    """The settings that a run goes on with: the stored ones, with what the user gave where that may change.

    Raises `errors.RunMismatchError` naming each setting that differs and would make finished work invalid.
    """
    settings = make(given, base=stored)
    fixed = [
        f"{flag(name)} is {getattr(stored, name)!r} there and {getattr(settings, name)!r} here"
        for name in names()
        if getattr(settings, name) != getattr(stored, name) and not is_changeable(name)
    ]
    if fixed:
        raise RunMismatchError(
            f"The run folder was made with other settings: {'; '.join(fixed)}.",
            "Continue it with its own settings, or give another --run folder.",
        )
    return settings


def _extra(name: str) -> dict[str, Any]:
    extra = Settings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return extra


def _fault(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    text = str(error["msg"]).removeprefix("Value error, ")
    return f"{flag(where)} {error['input']!r}: {text[0].lower()}{text[1:]}" if where else text
