"""Presets: settings under one name, over the defaults of `config.Settings`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minisheep.data.languages import language_code
from minisheep.errors import ConfigError

DEFAULT_PRESET = "default"
PRESETS: dict[str, dict[str, Any]] = {
    # What docs/results.md shows to help: solved tasks shown in every round, and a program as the judge of half of it.
    # Four answers to each instruction take their time, so a round has fewer than the paper's.
    DEFAULT_PRESET: {
        "per_round": 4000, "strategy": "total-base",
        "answers": 4, "answer_shots": 3, "show": "every", "constraints": 0.5,
    },
    # As close to the paper's text and public code as minisheep gets: docs/guide/paper.md lists what still differs. The
    # judge is the base, as in that code; in the paper's algorithm it is the round's model (--judge-model current).
    "paper": {
        "samples_per_prompt": 1,
        "judge": "sample", "judge_model": "base", "keep": "threshold:8", "rules": "paper", "exam_tasks": 0,
        "load_in": "bf16", "take": "first", "patience": 0,
    },
    # Two rounds of a tiny model on two CPU cores in minutes: likelihood evidence judges, since spoken scores of models
    # under half a billion parameters are noise, and a fraction is kept, since no fixed threshold fits every model.
    "imitation": {
        "rounds": 2, "per_round": 30,
        "generate_temperature": 0.8, "generate_max_tokens": 224,
        "answer_temperature": 0.7, "answer_max_tokens": 80,
        "judge": "pmi", "keep": "top:0.6", "exam_tasks": 0,
        "learning_rate": 2e-4, "warmup_steps": 2, "batch_size": 4, "micro_batch_size": 4, "max_length": 512,
        "checkpoint_seconds": 10.0,
        "eval_answers": 12, "eval_max_tokens": 64, "eval_verifiable": 16, "eval_verifiable_max_tokens": 64,
        "context": 1024,
    },
    # Two rounds of a base model that a program judges, on two CPU cores in minutes. The base answers in both, with
    # solved tasks shown: so it keeps more constraints than a round's model does alone.
    "demo": {
        "model": "gemma-3-270m", "rounds": 2, "per_round": 24,
        "generate_temperature": 0.8, "generate_max_tokens": 224,
        "answers": 3, "answer_temperature": 0.7, "answer_max_tokens": 80,
        "answer_shots": 3, "show": "every", "answer_model": "base", "constraints": 0.7,
        "assess": "none", "exam_tasks": 0,
        "learning_rate": 3e-4, "warmup_steps": 2, "batch_size": 2, "micro_batch_size": 2, "max_length": 512,
        "checkpoint_seconds": 20.0,
        "eval_tasks": 40, "eval_answers": 8, "eval_max_tokens": 64,
        "eval_verifiable": 24, "eval_verifiable_max_tokens": 64,
        "context": 1024,
    },
}  # fmt: skip

WORDED = frozenset({"en", "zh"})
"""Languages that minisheep words constraints in by itself."""
PRESET_NOTES = {
    DEFAULT_PRESET: "what helped most where it was measured; docs/results.md",
    "paper": "as close to the paper as minisheep gets; docs/guide/paper.md lists what differs",
    "imitation": "two rounds of a small model in minutes, judged by likelihoods",
    "demo": "two rounds of a small base model in minutes, judged by a program; what `make demo` does",
}
"""What each preset is, for help and for a line at the start of a run."""
MOST_NAMED = 12
"""Settings of the user's own that such a line names."""


def with_preset(given: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """The values of a preset, overridden by what the user gave. Raises `errors.ConfigError` for an unknown preset."""
    if preset not in PRESETS:
        raise ConfigError(f"There is no preset {preset!r}.", f"Presets: {', '.join(PRESETS)}.")
    # Direct is one round by definition; only another number given with it is a contradiction.
    one = {"rounds": 1} if given.get("strategy") == "direct" else {}
    excluded = _excluded(given, preset == DEFAULT_PRESET)
    proposed = {name: value for name, value in PRESETS[preset].items() if name not in excluded}
    return {**proposed, **one, **given}


def _excluded(given: Mapping[str, Any], default: bool) -> frozenset[str]:
    """What a preset leaves out: constraints where a language has none; of the default what the user speaks against."""
    excluded: set[str] = set()
    if default and (given.get("show") == "never" or not given.get("answer_shots", 1)):
        excluded |= {"show", "answer_shots"}
    try:
        worded = bool(given.get("constraint_file")) or language_code(given.get("language", "en")) in WORDED
    except ValueError:
        worded = True  # `config.make` says what is wrong with it.
    against = not given.get("constraints", 1) or given.get("rules", "on") != "on"
    if not worded or (default and against):
        excluded |= {"constraints", "answers"}
    return frozenset(excluded)


def described(preset: str, settings: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """The preset of a run in one sentence, with the settings that differ from its `usual` ones."""
    own = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in settings.items()
        if value != usual[name] and name != "model"
    ]
    more = f" and {len(own) - MOST_NAMED} more" if len(own) > MOST_NAMED else ""
    changed = f", with {', '.join(own[:MOST_NAMED])}{more}" if own else ""
    return f"Settings: preset {preset} ({PRESET_NOTES[preset]}){changed}."
