"""Names of models: what each means, and that none can lead out of the cache or become an option."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisheep.errors import ModelFileError, UnknownModelError
from minisheep.models.fetch import fetch_gguf, fetch_weights
from minisheep.models.registry import (
    NAME,
    HubFile,
    HubRepo,
    LocalPath,
    Wheels,
    absolute_paths,
    find_model,
    load_registry,
    parse_registry,
    safe_name,
)

REGISTRY = load_registry()


@pytest.mark.parametrize("entry", REGISTRY.values(), ids=REGISTRY)
def test_every_entry_finds_itself_in_any_case_and_by_its_aliases(entry):
    for name in (entry.name, entry.name.upper(), f" {entry.name} ", *entry.aliases):
        assert find_model(name) is entry


def test_the_registry_has_the_models_of_the_paper_and_their_successors():
    for name in ("qwen1.5-1.8b", "qwen1.5-4b", "qwen1.5-7b", "qwen1.5-14b", "qwen2.5-7b", "llama-3-8b", "qwen3-4b"):
        assert find_model(name).kind == "base"


def test_only_models_in_wheels_have_a_checked_hash():
    for entry in REGISTRY.values():
        assert isinstance(entry.gguf, Wheels) == (entry.gguf_sha256 is not None) == (entry.gguf_bytes is not None)


def test_no_gguf_of_a_base_model_is_one_of_a_chat_model():
    for entry in REGISTRY.values():
        if entry.kind == "base" and isinstance(entry.gguf, HubFile):
            assert not any(word in str(entry.gguf).lower() for word in ("instruct", "chat", "-it"))


def test_gated_and_bound_models_say_so_before_the_download():
    assert "gated" in find_model("llama-3-8b").notice
    assert "Gemma Terms of Use" in find_model("gemma-3-270m").notice


def test_a_path_to_a_gguf_is_a_model(tmp_path):
    entry = find_model(str(tmp_path / "My Model.Q8_0.gguf"))
    assert entry.gguf == LocalPath(tmp_path / "My Model.Q8_0.gguf")
    assert (entry.name, entry.weights, entry.template) == ("my-model.q8_0", None, "auto")


def test_a_hub_id_is_weights_to_train():
    entry = find_model("Org/Some-Model")
    assert (entry.name, entry.weights, entry.gguf) == ("some-model", HubRepo("Org/Some-Model"), None)
    assert find_model("Org/Some-Model@v1.0").weights == HubRepo("Org/Some-Model", "v1.0")


def test_a_hub_id_with_a_file_is_a_gguf():
    entry = find_model("Org/Some-GGUF@main:sub/Some.Q4_K_M.gguf")
    assert entry.gguf == HubFile("Org/Some-GGUF", "sub/Some.Q4_K_M.gguf")
    assert (entry.name, entry.weights) == ("some.q4_k_m", None)


def test_a_gguf_repository_without_a_file_is_answered_with_how_to_name_it():
    with pytest.raises(UnknownModelError, match=r"FILE\.gguf"):
        find_model("Org/Some-GGUF")


def test_an_existing_file_wins_over_a_hub_id_that_reads_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(find_model("a/b:c.gguf").gguf, HubFile)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b:c.gguf").write_bytes(b"")
    assert find_model("a/b:c.gguf").gguf == LocalPath(Path("a/b:c.gguf"))


def test_overrides_replace_files_and_forget_the_hash(tmp_path):
    entry = find_model("smollm2-135m", gguf="other.gguf", weights=str(tmp_path))
    assert (entry.gguf, entry.weights) == (LocalPath(Path("other.gguf")), LocalPath(tmp_path))
    assert (entry.gguf_sha256, entry.gguf_bytes, entry.title) == (None, None, "SmolLM2 135M Instruct")
    assert find_model("qwen1.5-14b", gguf="o/r:f.gguf").gguf == HubFile("o/r", "f.gguf")
    assert find_model("qwen1.5-14b", weights="o/r").weights == HubRepo("o/r")


def test_empty_overrides_change_nothing():
    assert find_model("smollm2-135m", gguf="", weights="") is find_model("smollm2-135m")


@pytest.mark.parametrize(
    ("typo", "meant"), [("qwen15-7b", "qwen1.5-7b"), ("smollm-135m", "smollm2-135m"), ("llama3-8b", "llama-3-8b")]
)
def test_an_unknown_name_is_answered_with_the_nearest(typo, meant):
    with pytest.raises(UnknownModelError, match=meant.replace(".", r"\.")):
        find_model(typo)


def test_a_folder_that_holds_models_and_a_file_that_is_none_are_not_said_to_be_unknown(tmp_path):
    for name in ("b.gguf", "a.gguf", "model.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(UnknownModelError, match="is there, but is no model by itself") as refused:
        find_model(str(tmp_path))
    assert f"{tmp_path}/a.gguf, {tmp_path}/b.gguf" in refused.value.fix
    with pytest.raises(UnknownModelError, match="is there, but") as refused:
        find_model(str(tmp_path / "model.safetensors"))
    assert "folder of its config.json" in refused.value.fix


def test_a_home_that_nobody_has_is_a_part_of_a_name():
    given = absolute_paths({"seeds": "~nobody-here/s.jsonl", "model": "~nobody-here/m.gguf"})
    assert given["seeds"].endswith("/~nobody-here/s.jsonl") and given["model"] == "~nobody-here/m.gguf"
    with pytest.raises(ModelFileError, match=r"There is no model file .*~nobody-here/m"):
        fetch_gguf(find_model("~nobody-here/m.gguf"), lambda line: None)
    with pytest.raises(ModelFileError, match="no folder"):
        fetch_weights(find_model("smollm2-135m", weights="~nobody-here/w"), lambda line: None)


HOSTILE = [
    "", ".", "..", "/", "//", "../../etc/passwd", "/etc/passwd", "a/../b", "../b", "a/..", "./a/b", "a/b/c", "a//b",
    "a\\b", "C:\\x", "a/b:../../x.gguf", "a/b:/etc/x.gguf", "a/b:.hidden.gguf", "a/b:x.bin", "a/b:x.gguf\n", "a/b\n",
    "-e/b", "a/-b", "--index-url=x", "a/b@../x", "a/b@-x", "a/b@", "a/b:", "~/x", "$HOME/x", "a/b;rm", "a b/c", "a/b c",
    "a/b?x=1", "a/b#x", "a/%2e%2e", "a/b\0", "\0", "a/b\x1b[2J", "a/" + "b" * 500, "名前/模型", "a/b\u202e", "https://a/b",
    "file:///etc/x", "hf://a/b", "a@b", "@", ":", "qwen1.5-7b/", "NUL:x",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_unknown(name):
    with pytest.raises(UnknownModelError):
        find_model(name)


@pytest.mark.parametrize("text", ["", "a/b", "a/b:c.bin", "a/b:../c.txt", "x\0.gguf", "-x"])
def test_a_gguf_that_is_neither_path_nor_hub_file_is_refused(text):
    if text:
        with pytest.raises(UnknownModelError):
            find_model("smollm2-135m", gguf=text)


@given(st.text(max_size=120))
def test_any_text_is_a_model_with_a_safe_name_or_unknown(text):
    with suppress(UnknownModelError):
        assert NAME.fullmatch(find_model(text).name)


@given(st.text(max_size=200))
def test_a_safe_name_obeys_the_grammar(text):
    assert NAME.fullmatch(safe_name(text)) and safe_name(text) != ".."


GOOD = """
[[model]]
name = "a"
title = "A"
kind = "base"
architecture = "llama"
parameters = 1
licence = "L"
template = "plain"
gguf = { repo = "o/r", file = "f.gguf" }
"""


def test_a_registry_reads_as_written():
    entry = parse_registry(GOOD)["a"]
    assert asdict(entry)["gguf"] == {"repo": "o/r", "file": "f.gguf", "revision": "main"}


WRONG = {
    "name with a path": ('name = "a"', 'name = "../a"'),
    "unknown field": ('title = "A"', 'title = "A"\nsurprise = 1'),
    "missing field": ('title = "A"\n', ""),
    "unknown kind": ('"base"', '"chat"'),
    "unknown template": ('"plain"', '"alpaca"'),
    "no parameters": ("parameters = 1", "parameters = 0"),
    "repo with a path": ('"o/r"', '"../r"'),
    "repo of three parts": ('"o/r"', '"o/r/s"'),
    "file that leads out": ('"f.gguf"', '"../f.gguf"'),
    "absolute file": ('"f.gguf"', '"/f.gguf"'),
    "hash of another length": ('file = "f.gguf"', 'file = "f.gguf", sha256 = "ab"'),
    "package that is an option": (
        '{ repo = "o/r", file = "f.gguf" }',
        f'{{ sha256 = "{"0" * 64}", bytes = 1, parts = [{{ package = "-x", version = "1", member = "m" }}] }}',
    ),
    "wheels without a hash": (
        '{ repo = "o/r", file = "f.gguf" }',
        '{ parts = [{ package = "x", version = "1", member = "m" }] }',
    ),
    "same name twice": ("[[model]]", "[[model]]" + GOOD.replace("[[model]]", "", 1) + "\n[[model]]"),
}


@pytest.mark.parametrize(("old", "new"), WRONG.values(), ids=WRONG)
def test_a_wrong_registry_is_refused(old, new):
    assert old in GOOD
    with pytest.raises(ValueError):
        parse_registry(GOOD.replace(old, new, 1))


def test_looking_up_a_model_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'llama_cpp', 'huggingface_hub', 'rapidfuzz', 'numpy', 'requests'}"
    code = (
        "import sys; from minisheep.models.registry import find_model; import minisheep.models.fetch;"
        f"find_model('qwen3-4b'); print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
