"""Settings: one class, three ways in, and no typo that passes silently."""

from __future__ import annotations

import inspect
import json
import os
import re
import string
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from minisheep import api, config, opening, presets
from minisheep.cli.work import align
from minisheep.config import Keep, Settings
from minisheep.data.seed_tasks import load_seeds, read_given
from minisheep.errors import ConfigError, RunMismatchError, SeedFileError
from minisheep.run.folder import RunFolder

LETTERS = string.ascii_lowercase + "_"
FAKE = {"engine": "fake", "trainer": "fake"}


def single_edits(name: str) -> set[str]:
    """Every name one deletion, swap, replacement or insertion away."""
    splits = [(name[:i], name[i:]) for i in range(len(name) + 1)]
    found = {a + b[1:] for a, b in splits if b}
    found |= {a + b[1] + b[0] + b[2:] for a, b in splits if len(b) > 1}
    found |= {a + letter + b[1:] for a, b in splits if b for letter in LETTERS}
    found |= {a + letter + b for a, b in splits for letter in LETTERS}
    return found - set(config.names()) - {""}


def test_every_typo_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    # Suggestions cost a millisecond each, and there are forty thousand typos.
    monkeypatch.setattr(config.difflib, "get_close_matches", lambda *_, **__: [])
    tried = 0
    for name in config.names():
        typos = sorted(single_edits(name))
        with pytest.raises(ConfigError) as refused:
            config.check_names(typos)
        assert all(repr(typo) in refused.value.message for typo in typos)
        tried += len(typos)
    assert tried > 20_000


def test_the_right_name_is_suggested_for_nearly_every_typo() -> None:
    right = tried = 0
    for name in config.names():
        for typo in sorted(single_edits(name))[:: 17 if len(name) > 5 else 3]:
            with pytest.raises(ConfigError) as refused:
                config.check_names([typo])
            tried += 1
            right += re.search(rf"\b{name}\b", refused.value.message) is not None
    assert tried > 1000
    assert right / tried >= 0.9, f"{right} of {tried}"


def test_all_unknown_names_are_told_at_once_and_where() -> None:
    with pytest.raises(ConfigError) as refused:
        config.check_names(["roundz", "zzzzzzzzzzzz", "keep"], where=" in my.toml")
    assert all(word in refused.value.message for word in ("'roundz'", "rounds", "'zzzzzzzzzzzz'", "my.toml"))


@pytest.mark.parametrize("preset", list(presets.PRESETS))
def test_presets_are_valid(preset: str) -> None:
    settings = config.make({}, preset).model_dump()
    assert all(settings[name] == value for name, value in presets.PRESETS[preset].items())


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="fast"):
        config.make({}, "fast")


@pytest.mark.parametrize("name", config.names())
def test_a_setting_is_a_flag_a_toml_key_and_a_keyword(name: str, tmp_path: Path) -> None:
    flags = {option for parameter in align.params for option in parameter.opts}
    assert config.flag(name) in flags
    default = Settings().model_dump()[name]
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps({name: default}))
    assert config.read_toml(file) == {name: default}
    assert config.make({name: default}).model_dump()[name] == default
    # The keywords of `align` are open: what is not its own goes to the settings.
    signature = inspect.signature(api.align)
    assert name not in signature.parameters
    assert any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())


@pytest.mark.parametrize("name", config.names())
def test_every_setting_has_a_group_and_says_what_it_means(name: str) -> None:
    from minisheep.cli.options import GROUPS

    assert config.group_of(name) in GROUPS
    assert len(str(Settings.model_fields[name].description)) > 10


def test_every_settings_name_reaches_a_run_by_keyword(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rounds"):
        api.align(tmp_path / "run", roundz=2, **FAKE)
    assert not (tmp_path / "run").exists()


KEEP = [
    ("threshold:8", ("threshold", 8.0)),
    ("threshold:-1.5", ("threshold", -1.5)),
    ("threshold:1e1", ("threshold", 10.0)),
    ("threshold: 8", ("threshold", 8.0)),
    ("top:0.5", ("top", 0.5)),
    ("top:1", ("top", 1.0)),
    ("top:0", None),
    ("top:-0.1", None),
    ("top:1.01", None),
    ("top:nan", None),
    ("top:50%", None),
    ("threshold:nan", None),
    ("threshold:inf", None),
    ("threshold:-inf", None),
    ("threshold:", None),
    ("threshold", None),
    ("Threshold:8", None),
    ("best:0.5", None),
    ("8", None),
    ("", None),
    (":", None),
    ("top:0.5:1", None),
]


@pytest.mark.parametrize(("text", "right"), KEEP)
def test_keep_is_read(text: str, right: tuple[str, float] | None) -> None:
    if right is not None:
        keep = Keep.parse(text)
        assert (keep.kind, keep.value) == right
        return
    with pytest.raises(ValueError, match="threshold:NUMBER"):
        Keep.parse(text)
    with pytest.raises(ConfigError, match="--keep"):
        config.make({"keep": text})


@pytest.mark.parametrize("text", ["auto", *(text for text, right in KEEP if right)])
def test_keep_is_parsed_once_and_stored_as_it_was_said(tmp_path: Path, text: str) -> None:
    # Past the contradictions with other settings, which are tested elsewhere.
    settings = Settings().model_copy(update={"keep": Keep.parse(text)})
    assert settings.model_dump()["keep"] == text == str(settings.keep)
    assert json.loads(settings.model_dump_json())["keep"] == text
    folder = RunFolder(tmp_path)
    opening.write_settings(folder, settings)
    assert config.read_toml(folder.settings)["keep"] == text


def test_keep_is_taken_as_text_and_as_what_it_was_parsed_to() -> None:
    settings = Settings(keep="top:0.3")
    assert settings.keep == Keep("top", 0.3) and Settings(keep=Keep("top", 0.3)) == settings
    with pytest.raises(ConfigError, match="--keep 3: keep 3 is not threshold:NUMBER"):
        config.make({"keep": 3})


def test_the_same_rule_in_other_words_is_no_change() -> None:
    stored = config.make({"keep": "top:0.3"})
    assert config.continued(stored, {"keep": "top:0.30"}) == stored
    assert config.continued(stored, {"keep": "top:0.31"}) != stored


CONTRADICTIONS = [
    ({"engine": "fake"}, "fake"),
    ({"trainer": "fake"}, "fake"),
    ({"judge": "pmi", "keep": "threshold:8"}, "--judge pmi"),
    ({"judge": "logits", "keep": "threshold:10"}, "10"),
    ({"judge": "sample", "keep": "threshold:11"}, "10"),
    ({"answer_max_tokens": 2048}, "--context 2048"),
    ({"generate_max_tokens": 600, "context": 512, "answer_max_tokens": 5}, "--generate-max-tokens"),
    ({"context": 256, "generate_max_tokens": 9, "answer_max_tokens": 9}, "--eval-max-tokens 256"),
]


@pytest.mark.parametrize(("given_", "told"), CONTRADICTIONS)
def test_contradictions_are_refused_in_words(given_: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.make(given_)
    assert told in refused.value.message
    assert "Value error" not in refused.value.message


@pytest.mark.parametrize(
    "given_", [{"judge": "pmi", "keep": "threshold:0.3"}, {"judge": "logits", "keep": "threshold:9.9"}, FAKE]
)
def test_what_agrees_is_accepted(given_: dict[str, object]) -> None:
    assert config.make(given_)


BAD = [
    ("rounds", 0),
    ("rounds", "three"),
    ("rounds", 1.5),
    ("seed", -1),
    ("shots", 21),
    ("novelty", 1.1),
    ("generate_temperature", float("nan")),
    ("answer_top_p", 0),
    ("lora_alpha", float("inf")),
    ("checkpoint_seconds", float("inf")),
    ("learning_rate", 1),
    ("validation", 0.9),
    ("judge", "vibes"),
    ("slots", 256),
    ("context", 255),
    ("rslora", "perhaps"),
    ("model", 3),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_value_out_of_range_is_named_with_its_flag(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as refused:
        config.make({name: value})
    assert f"{config.flag(name)} {value!r}" in refused.value.message


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        config.make({"rounds": 0, "judge": "vibes"})
    assert "--rounds" in refused.value.message and "--judge" in refused.value.message


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        config.make({}).rounds = 4  # type: ignore[misc]


@pytest.mark.parametrize("preset", list(presets.PRESETS))
@pytest.mark.parametrize("seeds", ["", 'a "quoted" path\\n', "späße\u2028\x1f"])
def test_resolved_settings_come_back_from_the_run_folder(tmp_path: Path, preset: str, seeds: str) -> None:
    folder = RunFolder(tmp_path)
    settings = config.make({"seeds": seeds, "learning_rate": 1e-7}, preset)
    opening.write_settings(folder, settings)
    assert opening.stored_settings(folder) == settings
    # The file is also one that a user can give.
    assert config.make(config.read_toml(folder.settings)) == settings


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"rounds = ", "mine.toml"), (b"\xff", "mine.toml"), (b"roundz = 3", "rounds")],
)
def test_a_broken_settings_file_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        config.read_toml(path)
    assert str(path) in refused.value.message and told in refused.value.message
    with pytest.raises(ConfigError, match=r"none\.toml"):
        config.read_toml(tmp_path / "none.toml")


OTHER: dict[str, object] = {
    "model": "qwen1.5-7b",
    "gguf": "x.gguf",
    "weights": "y",
    "template": "plain",
    "kind": "base",
    "seeds": "s.jsonl",
    "prompts": "p",
    "judge": "sample",
    "keep": "top:0.25",
    "language": "de",
    "trainer": "unsloth",
    "load_in": "fp32",
    "kv_type": "q8_0",
    "rslora": True,
    "strategy": "one-last",
    "judge_model": "base",
    "judge_prompt": "icl",
    "assess": "quality",
    "show": "every",
    "answer_model": "base",
    "constraints": 0.5,
    "constraint_file": "mine.toml",
    "hindsight": 0.25,
    "constraint_control": "exchanged",
    "take": "first",
    "filter": "density",
    "rules": "off",
    "engine_url": "http://other:8000/v1",
    "engine_model": "other",
    "engine_key_env": "KEY",
    "engine_hook": "./put",
    "loss": "orpo",
    "prefer": "judged",
    "mix_seeds": 0.25,
    "log_to": "tensorboard,wandb",
}
CHECKED: dict[str, object] = {"answers": 2, "constraints": 0.5}
PAIRED: dict[str, object] = {"loss": "dpo", **CHECKED}
PAIRS: dict[str, dict[str, object]] = {
    "loss": CHECKED,
    "prefer": PAIRED,
    "preference_beta": PAIRED,
}
"""What a run must have for these to mean anything."""
SERVER = {"engine": "openai", "engine_url": "http://one:8000/v1", "engine_model": "one"}

BESIDE: dict[str, dict[str, object]] = {
    "show": {"answer_shots": 3},
    "constraint_file": {"constraints": 0.5},
    "hindsight": {"constraints": 0.5},
    "constraint_control": {"constraints": 0.5},
}
"""What a setting's other value needs beside it."""
CONTRADICTING = {
    *BESIDE,
    "rules",
    *("engine", "trainer", "judge", "keep", "filter"),
    *("engine_url", "engine_model", "engine_key_env", "engine_hook"),
    *("loss", "prefer", "preference_beta"),
}
"""Settings whose other value contradicts other values of others."""


def other_value(name: str) -> object:
    if name in OTHER:
        return OTHER[name]
    value = Settings.model_fields[name].default
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value / 2


@pytest.mark.parametrize("name", [name for name in config.names() if name != "engine"])
def test_a_continued_run_takes_what_may_change_and_names_what_may_not(name: str) -> None:
    stored = config.make(SERVER if name.startswith("engine_") else {**BESIDE, **PAIRS}.get(name, {}))
    wanted = {name: other_value(name)}
    assert wanted[name] != stored.model_dump()[name]
    if config.is_changeable(name):
        assert config.continued(stored, wanted).model_dump()[name] == wanted[name]
        return
    with pytest.raises(RunMismatchError) as refused:
        config.continued(stored, wanted)
    told = [other for other in config.names() if f"{config.flag(other)} is " in refused.value.message]
    assert told == [name]


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.sets(st.sampled_from([n for n in config.names() if n not in CONTRADICTING])))
def test_all_and_only_fixed_settings_are_named(changed: set[str]) -> None:
    stored = config.make({})
    fixed = [name for name in config.names() if name in changed and not config.is_changeable(name)]
    try:
        config.continued(stored, {name: other_value(name) for name in changed})
    except RunMismatchError as refused:
        assert [n for n in config.names() if f"{config.flag(n)} is " in refused.message] == fixed
        assert fixed
    else:
        assert not fixed


def test_saying_the_same_again_is_no_change() -> None:
    stored = config.make({}, "imitation")
    assert config.continued(stored, stored.model_dump()) == stored


@pytest.mark.parametrize("text", ["seed = " + "9" * 5000, "seed = " + "[" * 20_000, "a" * 100 + "." * 9])
def test_a_settings_file_of_an_odd_size_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(ConfigError, match="not valid TOML"):
        config.read_toml(tmp_path / "odd.toml")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero here")
def test_a_device_has_no_end_and_a_pipe_is_read_as_far_as_it_may_be(tmp_path: Path) -> None:
    for path, kind in (("/dev/zero", SeedFileError), (str(tmp_path), SeedFileError)):
        with pytest.raises(kind, match="cannot be read"):
            load_seeds(path)
    with pytest.raises(ConfigError, match="it is a folder, not a file") as refused:
        config.read_toml(tmp_path)
    assert refused.value.fix
    with pytest.raises(ConfigError, match="neither a file nor a pipe"):
        config.read_toml(Path("/dev/zero"))
    read, write = os.pipe()
    os.write(write, b"some text")
    os.close(write)
    assert read_given(f"/dev/fd/{read}") == b"some text"
    os.close(read)
    read, write = os.pipe()
    os.write(write, b"x" * 2000)
    os.close(write)
    with pytest.raises(OSError, match="came through the pipe"):
        read_given(f"/dev/fd/{read}", most=1000)
    os.close(read)
