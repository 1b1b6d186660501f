"""The strict GGUF reader: what is right is read, what is wrong is a ModelFileError and nothing else, and fast."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest
from gguf_builder import Tiny, assemble, pair, tensor_info, text, tiny_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minisheep import config, open_engines
from minisheep.errors import ModelFileError
from minisheep.formats.gguf_header import BLOCKS, GgufHeader, read_header
from minisheep.formats.model_facts import has_fast_cpu_kernel, main_tensor_type, model_facts
from minisheep.models.fetch import fetch_gguf
from minisheep.models.registry import find_model


@pytest.fixture
def read(tmp_path: Path):
    def read(content: bytes) -> GgufHeader:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return read_header(path)

    return read


def test_everything_in_a_right_file_is_read(read):
    header = read(tiny_gguf())
    assert (header.version, header.architecture, header.file_bytes) == (3, "llama", len(tiny_gguf()))
    assert header.metadata["llama.rope.freq_base"] == 10_000.0
    assert header.metadata["tokenizer.ggml.add_bos_token"] is True
    assert header.metadata["tokenizer.ggml.tokens"][:] == ("<s>", "</s>", "a", "é", "<|im_end|>")
    assert list(header.metadata["tokenizer.ggml.special"]) == [True, True, False, False, True]
    assert header.metadata["tokenizer.ggml.scores"][-1] == 0.5
    assert [(t.name, t.shape, t.type, t.bytes) for t in header.tensors] == [
        ("token_embd.weight", (64, 5), "F32", 1280),
        ("blk.0.ffn_up.weight", (64, 8), "Q8_0", 544),
        ("output_norm.weight", (64,), "F32", 256),
    ]
    assert header.tensors[-1].offset + header.tensors[-1].bytes == header.file_bytes


def test_version_2_is_read_as_version_3(read):
    assert read(Tiny().build(version=2)).tensors == read(tiny_gguf()).tensors


def test_another_alignment_is_obeyed(read):
    info = [tensor_info("a", (3,), 0, 0), tensor_info("b", (3,), 0, 64)]
    pairs = [pair("general.architecture", "str", "llama"), pair("general.alignment", "u32", 64)]
    header = read(assemble(pairs, info, bytes(64 + 12), alignment=64))
    assert [t.offset % 64 for t in header.tensors] == [0, 0]


def test_a_token_outside_the_vocabulary_is_an_error(read):
    header = read(tiny_gguf())
    assert header.token_text(4) == "<|im_end|>"
    for index in (5, -1):
        with pytest.raises(ModelFileError):
            header.token_text(index)


def test_tokens_that_are_not_utf8_are_readable(read):
    more = (pair("x.raw", "arr", ("str", [b"\xff\xfe", b"ok"])),)
    assert read(Tiny(more=more).build()).metadata["x.raw"][:] == ("\ufffd\ufffd", "ok")


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_gguf())
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        with pytest.raises(ModelFileError, match=r"truncated|not a GGUF|corrupt"):
            read_header(path)


def replaced(old: bytes, new: bytes) -> bytes:
    content = tiny_gguf()
    assert content.count(old) >= 1
    return content.replace(old, new, 1)


def with_pair(*more: bytes) -> bytes:
    return Tiny(more=more).build()


def with_tensors(*infos: bytes, size: int = 4096) -> bytes:
    return assemble([pair("general.architecture", "str", "llama")], infos, bytes(size))


HUGE = 2**64 - 1
CORRUPT = {
    "wrong magic": Tiny().build(magic=b"GGML"),
    "version 0": Tiny().build(version=0),
    "version 1": Tiny().build(version=1),
    "version 4": Tiny().build(version=4),
    "big endian": Tiny().build(version=3 << 24),
    "huge tensor count": Tiny().build(tensor_count=HUGE),
    "negative tensor count": Tiny().build(tensor_count=2**63),
    "one tensor too many": Tiny().build(tensor_count=4),
    "huge pair count": Tiny().build(pair_count=HUGE),
    "one pair too many": Tiny().build(pair_count=len(Tiny().pairs()) + 1),
    "key longer than the file": replaced(text("general.name"), struct.pack("<Q", 2**20) + b"general.name"),
    "key of 2^64-1 bytes": replaced(text("general.name"), struct.pack("<Q", HUGE) + b"general.name"),
    "empty key": with_pair(pair("", "u32", 1)),
    "key with a newline": with_pair(pair("a\nb", "u32", 1)),
    "key that is not UTF-8": with_pair(pair(b"\xff\xff", "u32", 1)),
    "key twice": with_pair(pair("general.name", "str", "again")),
    "string longer than the file": replaced(text("Tiny"), struct.pack("<Q", 2**40) + b"Tiny"),
    "string of 2^64-1 bytes": replaced(text("Tiny"), struct.pack("<Q", HUGE) + b"Tiny"),
    "value that is not UTF-8": with_pair(pair("general.author", "str", b"\xc3\x28")),
    "unknown value type": with_pair(text("x") + struct.pack("<I", 13) + bytes(8)),
    "truth value 2": with_pair(pair("x", "bool", 2)),
    "truth values of 7": with_pair(pair("x", "arr", ("bool", [0, 1, 7]))),
    "array of arrays": with_pair(text("x") + struct.pack("<IIQ", 9, 9, 1) + bytes(32)),
    "array of an unknown type": with_pair(text("x") + struct.pack("<IIQ", 9, 99, 1) + bytes(32)),
    "array of 2^64-1 numbers": with_pair(text("x") + struct.pack("<IIQ", 9, 10, HUGE)),
    "array whose size overflows": with_pair(text("x") + struct.pack("<IIQ", 9, 10, 2**61)),
    "array of 2^40 strings": with_pair(text("x") + struct.pack("<IIQ", 9, 8, 2**40)),
    "array string past the end": with_pair(text("x") + struct.pack("<IIQQ", 9, 8, 1, 2**50)),
    "alignment 0": with_pair(pair("general.alignment", "u32", 0)),
    "alignment 24": with_pair(pair("general.alignment", "u32", 24)),
    "alignment 2^31": with_pair(pair("general.alignment", "u32", 2**31)),
    "alignment as a string": with_pair(pair("general.alignment", "str", "32")),
    "alignment as u64": with_pair(pair("general.alignment", "u64", 32)),
    "no architecture": assemble([pair("general.name", "str", "x")], [], b""),
    "architecture as a number": assemble([pair("general.architecture", "u32", 1)], [], b""),
    "architecture as a path": Tiny(architecture="../../etc").build(),
    "architecture of 200 letters": Tiny(architecture="a" * 200).build(),
    "no dimensions": with_tensors(tensor_info("a", (), 0, 0)),
    "five dimensions": with_tensors(tensor_info("a", (1, 1, 1, 1, 1), 0, 0)),
    "2^32-1 dimensions": with_tensors(tensor_info("a", (1,), 0, 0, rank=2**32 - 1)),
    "a dimension of 0": with_tensors(tensor_info("a", (32, 0), 0, 0)),
    "a dimension of 2^64-1": with_tensors(tensor_info("a", (HUGE,), 0, 0)),
    "a product that overflows": with_tensors(tensor_info("a", (2**32, 2**32), 0, 0)),
    "a product that wraps to 4 bytes": with_tensors(tensor_info("a", (2**62 + 1, 4), 0, 0)),
    "an unknown tensor type": with_tensors(tensor_info("a", (32,), 200, 0)),
    "a removed tensor type": with_tensors(tensor_info("a", (32,), 4, 0)),
    "rows of half a block": with_tensors(tensor_info("a", (48, 2), 8, 0)),
    "an offset out of line": with_tensors(tensor_info("a", (8,), 0, 1)),
    "a gap between tensors": with_tensors(tensor_info("a", (8,), 0, 0), tensor_info("b", (8,), 0, 64)),
    "tensors that overlap": with_tensors(tensor_info("a", (8,), 0, 0), tensor_info("b", (8,), 0, 0)),
    "an offset behind the file": with_tensors(tensor_info("a", (8,), 0, 2**40)),
    "an offset that wraps": with_tensors(tensor_info("a", (8,), 0, HUGE - 31)),
    "a tensor larger than the file": with_tensors(tensor_info("a", (2**20,), 0, 0)),
    "two tensors of one name": with_tensors(tensor_info("a", (8,), 0, 0), tensor_info("a", (8,), 0, 32)),
    "a tensor without a name": with_tensors(tensor_info("", (8,), 0, 0)),
    "a tensor name of 64 bytes": with_tensors(tensor_info("a" * 64, (8,), 0, 0)),
    "a tensor name with ESC": with_tensors(tensor_info("a\x1b[2J", (8,), 0, 0)),
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT)
def test_a_corrupt_file_is_refused(read, content):
    with pytest.raises(ModelFileError) as caught:
        read(content)
    assert caught.value.fix and "\x1b" not in caught.value.message


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("missing.gguf", "pipe", "empty", ".", "\0", "a" * 5000):
        with pytest.raises(ModelFileError):
            read_header(tmp_path / name)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.integers(0, len(tiny_gguf()) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.none() | st.integers(0, len(tiny_gguf())),
)
def test_a_mutated_file_is_read_or_refused_within_a_second(tmp_path, edits, cut):
    content = bytearray(tiny_gguf())
    for at, byte in edits:
        content[at] = byte
    path = tmp_path / "mutated.gguf"
    path.write_bytes(content[:cut])
    began = time.process_time()  # and not on the clock, since the machine may hold this process
    try:
        header = read_header(path)
        model_facts(header)
        assert all(t.offset + t.bytes <= header.file_bytes for t in header.tensors)
    except ModelFileError:
        pass
    assert time.process_time() - began < 1.0


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(max_size=300))
def test_random_bytes_behind_the_magic_are_refused(tmp_path, tail):
    path = tmp_path / "random.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + tail)
    with pytest.raises(ModelFileError):
        read_header(path)


def test_a_vocabulary_of_262144_tokens_is_read_within_a_second(tmp_path):
    tokens = tuple(f"token{i}" for i in range(262_144))
    more = (pair("tokenizer.ggml.merges", "arr", ("str", tokens)),)
    path = tmp_path / "large.gguf"
    path.write_bytes(Tiny(tokens=tokens, more=more, tensors=(("a", (8,), "F32"),)).build())
    began = time.process_time()
    header = read_header(path)
    assert time.process_time() - began < 1.0
    assert header.token_text(262_143) == "token262143"


def test_a_header_that_goes_on_for_ever_is_refused_within_two_seconds_of_work(tmp_path):
    path = tmp_path / "endless.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("x") + struct.pack("<IIQ", 9, 8, 2**21))
    os.truncate(path, 2**30)
    began = time.process_time()
    with pytest.raises(ModelFileError):
        read_header(path)
    assert time.process_time() - began < 2.0


def test_facts_are_those_of_the_header(read):
    facts = model_facts(read(tiny_gguf()))
    assert (facts.layers, facts.width, facts.heads, facts.kv_heads, facts.head_size) == (2, 64, 4, 2, 16)
    assert (facts.vocabulary, facts.context, facts.quantisation) == (5, 128, "Q8_0")
    assert (facts.bos_text, facts.eos_text, facts.chat_template) == ("<s>", "<|im_end|>", "{{ messages[0].content }}")
    assert facts.parameters == 64 * 5 + 64 * 8 + 64


@pytest.mark.parametrize("more", [pair("llama.pooling_type", "u32", 3), pair("llama.attention.causal", "bool", 0)])
def test_a_model_that_writes_no_text_is_refused(read, more):
    with pytest.raises(ModelFileError, match="embeds or ranks"):
        model_facts(read(Tiny(more=(more,)).build()))
    assert model_facts(read(Tiny(more=(pair("llama.pooling_type", "u32", 0),)).build()))


def test_more_layers_than_llama_cpp_holds_are_refused(read):
    with pytest.raises(ModelFileError, match="block_count"):
        model_facts(read(Tiny(layers=513).build()))


def test_an_adapter_is_no_model(read):
    with pytest.raises(ModelFileError, match="adapter"):
        model_facts(read(with_pair(pair("general.type", "str", "adapter"))))


@pytest.mark.parametrize(
    ("kind", "fast"), [("Q8_0", True), ("Q4_0", True), ("F16", True), ("F32", True), ("Q4_1", False)]
)
def test_the_fast_cpu_formats_are_known(read, kind, fast):
    header = read(Tiny(tensors=(("norm", (64,), "F32"), ("big", (1024, 8), kind))).build())
    assert main_tensor_type(header) == kind
    assert has_fast_cpu_kernel(header) is fast


def test_a_mix_is_slow_where_a_good_part_of_it_is(read):
    # A Q4_K_M of gemma-3-270m in small: the embedding holds most bytes, a format without a kernel most of the layers.
    mix = (("token_embd", (64, 64), "Q8_0"), ("down", (256, 8), "Q4_0"), ("up", (64, 32), "Q4_1"))
    assert not has_fast_cpu_kernel(read(Tiny(tensors=mix).build()))
    rest = (("token_embd", (64, 256), "Q8_0"), ("down", (256, 8), "Q4_0"), ("norm", (64, 16), "Q4_1"))
    assert has_fast_cpu_kernel(read(Tiny(tensors=rest).build()))


def test_block_sizes_are_those_of_the_gguf_package():
    gguf = pytest.importorskip("gguf")
    for number, block in BLOCKS.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == block


@pytest.fixture
def smollm2_path() -> Path:
    return fetch_gguf(find_model("smollm2-135m"), print).path


@pytest.mark.model
def test_the_real_smollm2_is_read(smollm2_path: Path):
    header = read_header(smollm2_path)
    facts = model_facts(header)
    assert (facts.architecture, facts.parameters, facts.layers, facts.heads) == ("llama", 134_515_008, 30, 9)
    assert (facts.kv_heads, facts.width, facts.vocabulary, facts.context) == (3, 576, 49_152, 8192)
    assert (facts.quantisation, facts.fast_on_cpu, facts.eos_text) == ("Q4_1", False, "<|im_end|>")
    assert "<|im_start|>" in facts.chat_template
    assert len(header.tensors) == 272


@pytest.mark.model
def test_the_q8_0_copy_of_smollm2_is_whole_and_fast_on_cpu(smollm2_path: Path, tmp_path: Path):
    from minisheep.formats.quantise import requantise

    output = tmp_path / "copies" / "smollm2.q8_0.gguf"
    requantise(smollm2_path, output)
    facts = model_facts(read_header(output))
    assert (facts.quantisation, facts.fast_on_cpu, facts.parameters) == ("Q8_0", True, 134_515_008)
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@pytest.mark.model
def test_a_file_that_llama_cpp_cannot_convert_leaves_nothing(tmp_path: Path):
    from minisheep.formats.quantise import requantise

    source = tmp_path / "models" / "tiny.gguf"
    source.parent.mkdir()
    source.write_bytes(Tiny(architecture="nosucharchitecture").build())
    with pytest.raises(ModelFileError, match="cannot write"):
        requantise(source, source.parent / "out.gguf")
    assert list(source.parent.iterdir()) == [source]


class Mapper:
    """Stands for llama.cpp: what reaches it would be mapped."""

    def __init__(self) -> None:
        self.mapped: list[Path | None] = []
        self.info = type("Info", (), {"backend": "llama.cpp"})()

    def set_adapter(self, path: Path | None) -> None:
        self.mapped.append(path)


def test_no_gguf_reaches_native_code_unread(tmp_path: Path) -> None:
    """An adapter of a round, and the file that a run's model.json names, are as strange as any."""
    bad = tmp_path / "adapter.gguf"
    bad.write_bytes(tiny_gguf()[:40])
    engine = Mapper()
    with pytest.raises(ModelFileError):
        open_engines.put_adapter(engine, bad)  # type: ignore[arg-type]
    assert engine.mapped == []
    bad.write_bytes(tiny_gguf())
    open_engines.put_adapter(engine, bad)  # type: ignore[arg-type]
    open_engines.put_adapter(engine, None)  # type: ignore[arg-type]
    assert engine.mapped == [bad, None]
    bad.write_bytes(b"GGUF" + b"\xff" * 60)
    with pytest.raises(ModelFileError, match="reads versions 2 and 3"):
        open_engines.open_engine(config.make({}), bad)


def test_only_what_was_fetched_or_made_may_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own file is never called deletable, wherever a model file is refused."""
    monkeypatch.setenv("MINISHEEP_CACHE", str(tmp_path / "cache"))
    for place, deletable in (("cache/gguf", True), ("hub/models--a--b/blobs", True), ("mine", False)):
        file = tmp_path / place / "model.gguf"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"GGUF" + b"\xff" * 40)
        with pytest.raises(ModelFileError) as refused:
            read_header(file)
        assert ("elete" in refused.value.fix) == deletable and ("--gguf" in refused.value.fix) != deletable


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(ModelFileError, match="git lfs pull"):
        read_header(tmp_path / "m.gguf")


def test_a_context_that_overflows_llama_cpps_numbers_is_refused(read):
    """With 2**31 tokens llama.cpp never came back from making a context."""
    longest = Tiny(more=(pair("llama.vocab_size", "u32", 5),))
    for context, fits in ((2**31 - 1, True), (2**31, False)):
        longest.pairs = lambda context=context: [
            pair("llama.context_length", "u32", context) if b"context_length" in one else one for one in Tiny().pairs()
        ]
        header = read(longest.build())
        if fits:
            assert model_facts(header).context == context
        else:
            with pytest.raises(ModelFileError, match="context_length is 2147483648"):
                model_facts(header)
