"""A tokenizer.json as GGUF keys: every token in its place, and what llama.cpp cannot do refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_folders as folders
import pytest
from click.testing import CliRunner

from minisheep.cli.main import cli
from minisheep.errors import ModelFileError, UnknownModelError, UnsupportedModelError, UsageError
from minisheep.formats import tokenizer as tokenizer_module
from minisheep.formats.gguf_header import read_header
from minisheep.formats.hf_config import Source, read_source
from minisheep.formats.tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    GgufVocabulary,
    pre_tokenizer_name,
    read_vocabulary,
)

Json = dict[str, Any]


def source(tokenizer: Json, **more: Any) -> Source:
    empty: Json = {"config": {}, "generation": {}, "special": {}, "chat_template": ""}
    return Source(folder=Path("folder"), tokenizer=tokenizer, **(empty | more))


def vocabulary(tokenizer: Json | None = None, rows: int = 280, **more: Any) -> GgufVocabulary:
    return read_vocabulary(source(tokenizer or folders.tiny_byte_level(), **more), rows)


# Byte-level BPE


def test_every_token_of_a_byte_level_vocabulary_has_its_kind() -> None:
    found = vocabulary()
    named = dict(zip(found.tokens, found.types, strict=True))
    assert (named["Ġthe"], named["<|endoftext|>"], named["<tool>"]) == (NORMAL, CONTROL, USER_DEFINED)
    assert (found.model, found.scores, found.merges[:2]) == ("gpt2", [], ["Ġ t", "h e"])


def test_rows_without_a_token_get_an_unused_one() -> None:
    found = vocabulary(rows=270)
    assert len(found.tokens) == 270 and found.types[265:] == [UNUSED] * 5 and found.tokens[269] == "[PAD269]"


def test_tokens_without_a_row_are_left_out_and_told() -> None:
    found = vocabulary(rows=263)
    assert len(found.tokens) == 263 and "<tool>" not in found.tokens
    assert found.notes[0].startswith("2 tokens")


def test_merges_of_older_files_are_read_alike() -> None:
    older = folders.tiny_byte_level()
    older["model"]["merges"] = [" ".join(pair) for pair in older["model"]["merges"]]
    assert vocabulary(older).merges == vocabulary().merges


@pytest.mark.parametrize("name", folders.PRE)
def test_a_way_to_cut_words_gets_llama_cpps_name(name: str) -> None:
    assert vocabulary(folders.tiny_byte_level(name)).pre == name


def _change(path: str, value: Any) -> Callable[[Json], None]:
    *parents, last = path.split(".")

    def apply(tokenizer: Json) -> None:
        for name in parents:
            tokenizer = tokenizer[name]
        tokenizer[last] = value

    return apply


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_change("pre_tokenizer", folders.sequence(folders.split(r"\w+"), folders.byte_level(regex=False))), "Split"),
        (_change("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True}), "ByteLevel"),
        (_change("model.ignore_merges", True), "cuts words"),
        (_change("normalizer", {"type": "NFKC"}), "changes a text"),
        (_change("normalizer", {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}), "changes a text"),
        (_change("model.type", "Unigram"), "Unigram"),
        (_change("model", None), "None"),
        (_change("model.dropout", 0.1), "dropout"),
        (_change("model.end_of_word_suffix", "</w>"), "end_of_word_suffix"),
        (_change("added_tokens", [folders.added(262, "<x>", special=False) | {"lstrip": True}]), "lstrip"),
        (_change("pre_tokenizer", None), "neither byte-level"),
    ],
)
def test_what_llama_cpp_would_tokenise_otherwise_is_refused(change: Callable[[Json], None], named: str) -> None:
    tokenizer = folders.tiny_byte_level()
    change(tokenizer)
    with pytest.raises(UnsupportedModelError, match=named):
        vocabulary(tokenizer)


@pytest.mark.parametrize(
    "change",
    [
        _change("model.vocab", None),
        _change("model.vocab", {"a": "b"}),
        _change("model.vocab", {"a": -1}),
        _change("model.merges", [["a"]]),
        _change("model.merges", ["a b c"]),
        _change("model.merges", 3),
        _change("added_tokens", [{"content": "<x>"}]),
        _change("added_tokens", [folders.added(270, "a", special=False)]),
    ],
)
def test_a_damaged_tokenizer_is_one_line(change: Callable[[Json], None]) -> None:
    tokenizer = folders.tiny_byte_level()
    change(tokenizer)
    with pytest.raises(ModelFileError, match=r"tokenizer\.json"):
        vocabulary(tokenizer)


def test_llama_3_without_whole_words_is_another_of_llama_cpps_ways() -> None:
    tokenizer = folders.tiny_byte_level("llama-bpe")
    tokenizer["model"]["ignore_merges"] = False
    assert pre_tokenizer_name(tokenizer) == "smaug-bpe"


# SentencePiece's BPE


def test_every_token_of_a_sentencepiece_vocabulary_has_its_kind() -> None:
    tokenizer = folders.tiny_sentencepiece(gemma=True)
    tokenizer["added_tokens"] = tokenizer["added_tokens"][1:]
    found = vocabulary(tokenizer, 300)
    named = dict(zip(found.tokens, found.types, strict=True))
    assert (named["<unk>"], named["<s>"], named["<0x0A>"], named["▁the"]) == (UNKNOWN, CONTROL, BYTE, NORMAL)
    # llama.cpp looks for tokens of the user in the text as it came.
    assert named["  "] == USER_DEFINED and "▁▁" not in named
    assert (found.model, found.merges) == ("llama", [])


def test_what_is_merged_first_scores_highest() -> None:
    found = vocabulary(folders.tiny_sentencepiece(gemma=True), 300)
    score = dict(zip(found.tokens, found.scores, strict=True))
    order = [score[text] for text in ("▁t", "he", "▁the", "in", "▁a", "x")]
    assert order == sorted(order, reverse=True) and len(set(order)) == 6


@pytest.mark.parametrize(
    ("pre", "prefixed"),
    [
        (None, True),
        ({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}, True),
        ({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}, False),
    ],
)
def test_llama_2_puts_a_space_in_front_and_gemma_none(pre: Json | None, prefixed: bool) -> None:
    llama = folders.tiny_sentencepiece(gemma=False)
    if pre is not None:
        llama |= {"normalizer": None, "pre_tokenizer": pre}
    assert vocabulary(llama, 300).flags["add_space_prefix"] is prefixed
    assert vocabulary(folders.tiny_sentencepiece(gemma=True), 300).flags["add_space_prefix"] is False


# Tokens with a part to play


def test_a_text_begins_as_the_template_of_the_tokenizer_says_unless_its_configuration_does() -> None:
    gemma = folders.tiny_sentencepiece(gemma=True)
    assert vocabulary(gemma, 300).flags["add_bos_token"] and not vocabulary(gemma, 300).flags["add_eos_token"]
    assert not vocabulary(gemma, 300, special={"add_bos_token": False}).flags["add_bos_token"]
    assert not vocabulary().flags["add_bos_token"]


def test_special_tokens_are_found_by_text_and_else_by_number() -> None:
    found = vocabulary(
        special={"eos_token": {"content": "<|im_end|>"}, "bos_token": None},
        config={"bos_token_id": 262, "pad_token_id": [262], "eos_token_id": 5},
    )
    assert found.ids == {"bos": 262, "eos": 263, "padding": 262}


def test_another_token_that_ends_an_answer_is_the_end_of_a_turn() -> None:
    found = vocabulary(special={"eos_token": "<|endoftext|>"}, generation={"eos_token_id": [262, 263]})
    assert (found.ids["eos"], found.ids["eot"]) == (262, 263)


def test_a_number_that_no_token_has_is_not_written() -> None:
    assert vocabulary(config={"bos_token_id": 9999, "eos_token_id": "x"}, generation={"eos_token_id": [9999]}).ids == {}


@pytest.mark.parametrize("where", ["file", "text", "list"])
def test_a_chat_template_is_found_wherever_it_is(tmp_path: Path, where: str) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    if where == "file":
        (folder / "chat_template.jinja").write_text("{{ x }}")
    else:
        named = [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ x }}"}]
        folders.write_json(folder, tokenizer_config={"chat_template": "{{ x }}" if where == "text" else named})
    assert read_source(folder).chat_template == "{{ x }}"


# The command


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "check_tokens", lambda gguf, folder: None)


def test_the_command_names_its_file_after_the_folder(tmp_path: Path, unchecked: None) -> None:
    folders.tiny_folder(tmp_path / "work" / "My Base")
    done = CliRunner().invoke(cli, ["convert", "My Base", "--type", "F16", "--json"], catch_exceptions=False)
    told = [json.loads(line) for line in done.output.splitlines()]
    assert told[-1]["event"] == "Converted" and told[-1]["gguf"] == "my-base-f16.gguf"
    assert read_header(tmp_path / "work" / "my-base-f16.gguf").metadata["general.name"] == "My Base"


def test_the_command_speaks_plainly(tmp_path: Path, unchecked: None) -> None:
    folders.tiny_folder(tmp_path / "work" / "base")
    done = CliRunner().invoke(cli, ["convert", "base", "--out", "x/y.gguf"], catch_exceptions=False)
    assert done.output.splitlines()[-1].startswith("x/y.gguf (llama, ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["base", "--type", "int3"], "int3"),
        (["base", "--out", "x.bin"], r"\.gguf"),
        (["smollm2-135m"], "SmolLM2"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(tmp_path: Path, arguments: list[str], named: str) -> None:
    folders.tiny_folder(tmp_path / "work" / "base")
    with pytest.raises(UsageError, match=named):
        CliRunner().invoke(cli, ["convert", *arguments], catch_exceptions=False)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "work" / "base").mkdir()
    with pytest.raises(UnknownModelError, match=r"config\.json"):
        CliRunner().invoke(cli, ["convert", "base"], catch_exceptions=False)
