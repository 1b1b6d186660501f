"""A model that cannot end its answers as its template says is refused or mended before the first token."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import model_folders as folders
import pytest
from click.testing import CliRunner
from gguf_builder import Tiny, pair

from minisheep import api
from minisheep.cli.models import convert as convert_verb
from minisheep.data.seed_tasks import SeedTask
from minisheep.engines import native
from minisheep.errors import (
    MinisheepError,
    ModelFileError,
    RunMismatchError,
    SeedFileError,
    UnsupportedModelError,
    UsageError,
)
from minisheep.formats.gguf_header import GgufHeader, read_header
from minisheep.formats.hf_to_gguf import convert, join_parts
from minisheep.formats.model_check import check_model, with_end
from minisheep.models.cache import sha256_file
from minisheep.models.fetch import fetch_gguf
from minisheep.models.registry import find_model
from minisheep.rules.templates import Prompt, Template, chatml, plain
from minisheep.stages.lengths import Lengths

CONTROL = {"<|im_start|>": 1, "<|im_end|>": 2, "<|endoftext|>": 3, "<|done|>": 4}


class Known:
    """A vocabulary of a few control tokens, of which some end a generation; any other text is several tokens."""

    def __init__(self, *ends: str, eos: int = 3, ordinary: str = "") -> None:
        self._ends, self.eos, self._ordinary = {CONTROL[text] for text in ends}, eos, ordinary

    def token(self, text: str) -> int | None:
        return 9 if text and text == self._ordinary else CONTROL.get(text)

    def ends(self, stops: Any) -> frozenset[int]:
        return frozenset(CONTROL[text] for text in stops if text in CONTROL)

    def is_end(self, token: int) -> bool:
        return token in self._ends

    def is_control(self, token: int) -> bool:
        return token in CONTROL.values()

    def decode(self, tokens: Any) -> str:
        return ","


def header(*, eos: bool = True) -> GgufHeader:
    metadata = {"tokenizer.ggml.eos_token_id": 3} if eos else {}
    return GgufHeader(3, "llama", MappingProxyType(metadata), (), 0)


def ended(template: Template, known: Any, *, eos: bool = True) -> tuple[Template, list[str]]:
    return with_end(known, header(eos=eos), template)


def test_an_end_that_the_model_knows_changes_nothing() -> None:
    assert ended(chatml(), Known("<|im_end|>")) == (chatml(), [])


@pytest.mark.parametrize("template", [Template("model", "<", ">", "<|eom_xyz|>"), chatml(), plain("</s>")])
def test_an_end_that_is_no_token_is_refused(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(CONTROL, "<|im_end|>")
    with pytest.raises(UnsupportedModelError, match="no token of this model") as refused:
        ended(template, Known("<|endoftext|>"))
    assert template.end in refused.value.message and "--" in refused.value.fix


def test_a_token_that_is_not_marked_as_an_end_becomes_a_stop() -> None:
    mended, told = ended(Template("model", "<", ">", "<|done|>"), Known("<|endoftext|>"))
    assert mended.stop == ("<|done|>",) and "<|done|>" in told[0]


def test_without_an_end_in_the_file_one_that_it_has_is_taken() -> None:
    mended, told = ended(plain(""), Known("<|endoftext|>"), eos=False)
    assert mended.end == "<|endoftext|>" and "eos_token_id" in told[0]


def test_a_text_that_llama_cpp_takes_for_the_end_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="','"):
        ended(plain(""), Known(eos=11), eos=False)


def test_an_end_that_is_an_ordinary_word_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Known, "decode", lambda self, tokens: " the")
    _, told = ended(plain("<|endoftext|>"), Known("<|endoftext|>", eos=9))
    assert "texts with the word 'the'" in told[0]


def test_a_model_without_any_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("<|im_end|>", "<|endoftext|>"):
        monkeypatch.delitem(CONTROL, name)
    with pytest.raises(UnsupportedModelError, match="names no token"):
        ended(plain(""), Known(eos=4), eos=False)


def converted(folder: Path) -> Path:
    made = convert(folders.tiny_folder(folder), folder.parent / f"{folder.name}.gguf", "f32", "Tiny", lambda line: None)
    return made.path


def test_a_real_file_is_checked_by_llama_cpp_itself(tmp_path: Path) -> None:
    gguf = converted(tmp_path / "a")
    assert check_model(gguf, read_header(gguf), plain("<|endoftext|>")).template == plain("<|endoftext|>")
    found = check_model(gguf, read_header(gguf), chatml())
    # It knows <|im_end|>, and reads the labels of the turns as ordinary text.
    assert "<|im_start|>" in found.warnings[-1]


@pytest.mark.parametrize(
    ("there", "instead", "told"),
    [
        (b"blk.1.ffn_up.weight", b"blk.1.ffn_ux.weight", "blk.1.ffn_up.weight' not found"),
        (b"llama.feed_forward_length\4\0\0\0\x60", b"llama.feed_forward_length\4\0\0\0\x40", "wrong shape"),
    ],
)
def test_tensors_that_do_not_fit_the_header_are_refused(
    tmp_path: Path, there: bytes, instead: bytes, told: str
) -> None:
    """llama.cpp would say so when it loads the weights, in a run that has begun and then can have no other model."""
    gguf = converted(tmp_path / "a")
    data = gguf.read_bytes()
    assert there in data
    gguf.write_bytes(data.replace(there, instead))
    with pytest.raises(ModelFileError, match=told):
        check_model(gguf, read_header(gguf), plain("<|endoftext|>"))


def test_a_models_own_template_is_not_said_to_be_mended_by_itself(tmp_path: Path) -> None:
    gguf = converted(tmp_path / "a")
    own = Template("model", "<|im_start|>user\n", "<|im_end|>\n", "<|im_end|>")
    told = check_model(gguf, read_header(gguf), own).warnings[-1]
    assert "<|im_start|>" in told and "--template auto" not in told


def test_a_users_own_file_is_not_to_be_deleted(tmp_path: Path) -> None:
    gguf = converted(tmp_path / "a")
    gguf.write_bytes(gguf.read_bytes().replace(b"tokenizer.ggml.merges", b"tokenizer.ggml.mergez"))
    with pytest.raises(ModelFileError, match="merges") as refused:
        check_model(gguf, read_header(gguf), plain("<|endoftext|>"))
    assert "It stays as it is" in refused.value.fix and "elete" not in refused.value.fix


def test_what_llama_cpp_warns_of_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = converted(tmp_path / "a")
    data = gguf.read_bytes().replace(b"tokenizer.ggml.pre", b"tokenizer.ggml.prx")
    gguf.write_bytes(data)
    warnings = check_model(gguf, read_header(gguf), plain("<|endoftext|>")).warnings
    assert [w for w in warnings if "missing pre-tokenizer type" in w] == [warnings[0]]
    assert not any("****" in w or w.endswith(": ") for w in warnings)
    assert not check_model(gguf, read_header(gguf), plain("<|endoftext|>"), tells_log=False).warnings


def test_a_control_token_among_the_stops_is_found(tmp_path: Path) -> None:
    with native.Vocabulary.from_file(converted(tmp_path / "a")) as vocabulary:
        assert vocabulary.ends(("\nInput:", "<|im_end|>", "the")) == {vocabulary.token("<|im_end|>")}


def part(folder: Path, number: int, count: int) -> Path:
    path = folder / f"big-{number:05}-of-{count:05}.gguf"
    more = (pair("split.no", "u16", number - 1), pair("split.count", "u16", count))
    path.write_bytes(Tiny(architecture="llama" if number == 1 else "", more=more).build())
    return path


@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_part_of_a_split_model_is_refused_with_the_command_that_joins_them(tmp_path: Path, number: int) -> None:
    (folder := tmp_path / "with blank").mkdir()
    with pytest.raises(ModelFileError, match=f"part {number} of 3") as refused:
        read_header(part(folder, number, 3))
    assert f"`minisheep convert '{folder}/big-{number:05}-of-00003.gguf' --out big-whole.gguf`" in refused.value.fix


@pytest.mark.parametrize("count", [0, 1])
def test_a_file_that_was_split_into_one_or_joined_is_whole(tmp_path: Path, count: int) -> None:
    path = part(tmp_path, 1, count)
    assert read_header(path).architecture == "llama"
    with pytest.raises(UsageError, match="GGUF already"):
        join_parts(path, tmp_path / "joined.gguf", print)


@pytest.mark.parametrize("weights", [{}, {"weights": "folder"}])
def test_a_part_is_refused_before_there_is_a_run(tmp_path: Path, weights: dict[str, str]) -> None:
    with pytest.raises(ModelFileError, match="part 1 of 2"):
        api.align(tmp_path / "run", model=str(part(tmp_path, 1, 2)), **weights)
    assert not (tmp_path / "run").exists()


def test_a_part_on_the_hub_is_refused_before_it_is_fetched() -> None:
    with pytest.raises(MinisheepError, match="part 1 of 4") as refused:
        fetch_gguf(find_model("org/repo:dir/big-00001-of-00004.gguf"), lambda line: None)
    assert "`hf download org/repo --include 'dir/big-*-of-00004.gguf' --local-dir .`" in refused.value.fix


def split(whole: Path, folder: Path) -> list[Path]:
    """The tiny model in two parts, as llama-gguf-split writes them: the first has the header."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(whole)
    writer = GGUFWriter(folder / "tiny.gguf", "llama", split_max_tensors=4)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            more = {"sub_type": field.types[-1]} if kind == GGUFValueType.ARRAY else {}
            writer.add_key_value(name, field.contents(), kind, **more)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("tiny-*.gguf"))


def test_the_command_that_joins_parts_makes_the_model_that_was_split(tmp_path: Path) -> None:
    whole = converted(tmp_path / "a")
    (folder := tmp_path / "parts").mkdir()
    parts, joined = split(whole, folder), tmp_path / "new" / "joined.gguf"
    assert len(parts) > 2
    done = CliRunner().invoke(convert_verb, [str(parts[1]), "--out", str(joined), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output.splitlines()[-1])
    assert (told["gguf"], told["type"]) == (str(joined), "unchanged")
    ours, theirs = read_header(joined), read_header(whole)
    assert {k: str(v) for k, v in ours.metadata.items()} == {k: str(v) for k, v in theirs.metadata.items()}
    numbers = [
        {t.name: (t.shape, t.type, path.read_bytes()[t.offset :][: t.bytes]) for t in header.tensors}
        for path, header in ((joined, ours), (whole, theirs))
    ]
    assert numbers[0] == numbers[1]
    with pytest.raises(UsageError, match="GGUF already"):
        join_parts(joined, tmp_path / "b.gguf", print)
    with pytest.raises(UsageError, match="exists already"):
        join_parts(parts[0], joined, print)


@pytest.mark.parametrize("fault", ["missing", "renamed", "swapped", "cut", "foreign"])
def test_parts_that_are_not_all_there_are_named_and_nothing_is_left(tmp_path: Path, fault: str) -> None:
    whole = converted(tmp_path / "a")
    (folder := tmp_path / "parts").mkdir()
    first, second, third, *_ = split(whole, folder)
    told = {
        "missing": second.name,
        "renamed": "named as they came",
        "swapped": f"{second} is not part 2 of",
        "cut": f"{second} cannot be used: truncated",
        "foreign": "are not of one model",
    }[fault]
    if fault == "missing":
        second.unlink()
    elif fault == "renamed":
        first = first.rename(folder / "model.gguf")
    elif fault == "swapped":
        second.write_bytes(third.read_bytes())
    elif fault == "foreign":  # it holds a tensor of the same name as the third
        name = next(tensor.name for tensor in read_header(second, part=True).tensors if tensor.name.startswith("blk.0"))
        other = next(t.name for t in read_header(third, part=True).tensors if len(t.name) == len(name))
        second.write_bytes(second.read_bytes().replace(name.encode(), other.encode()))
    else:
        second.write_bytes(second.read_bytes()[:-8])
    with pytest.raises(ModelFileError) as refused:
        join_parts(first, tmp_path / "joined.gguf", print)
    assert told in str(refused.value) + refused.value.fix
    assert [path.name for path in tmp_path.iterdir() if "joined" in path.name] == []


def seeds(*sizes: int, held_out: frozenset[int] = frozenset({0})) -> list[SeedTask]:
    return [
        SeedTask(f"s{n}", "k", "word " * size, "", "answer", n in held_out, f"mine.jsonl, line {n + 1}")
        for n, size in enumerate(sizes)
    ]


def words(prompt: Prompt) -> int:
    return sum(len(segment.text.split()) for segment in prompt)


def checked(tasks: list[SeedTask], room: int, **settings: Any) -> list[str]:
    from minisheep.config import make
    from minisheep.data.seed_tasks import load_prompts

    given = {"shots": 2, "assess": "none", "keep": "auto", "exam_tasks": 0, "judge": "logits"} | settings
    return Lengths(make(given), plain("</s>"), "base", load_prompts(), words).check(tasks, [], room)


SMALL = dict.fromkeys(("generate_max_tokens", "answer_max_tokens", "eval_max_tokens", "eval_verifiable_max_tokens"), 50)


@pytest.mark.parametrize("long", [0, 3])
def test_a_seed_that_is_too_long_is_named_whether_it_is_shown_or_held_out(long: int) -> None:
    sizes = [5] * 8
    sizes[long] = 600
    for settings, named, fix in (
        ({"context": 300, **SMALL}, "--context 300", "Give --context"),
        # Nobody gave this one, and no setting makes it wider.
        ({}, "the model's own context of 300 tokens", "Choose a model with a context of"),
    ):
        with pytest.raises(SeedFileError, match=f"line {long + 1} ") as refused:
            checked(seeds(*sizes), 300, **settings)
        assert named in refused.value.message and fix in refused.value.fix
        assert refused.value.message.count("line") == 1


def test_a_run_is_not_begun_with_a_seed_that_is_too_long(tmp_path: Path) -> None:
    from minisheep import config, prepare

    gguf = converted(tmp_path / "a")
    rows = [
        {"instruction": f"Say {n} words of your own.", "output": "No. " * (n == 3) * 900 + "Yes."} for n in range(9)
    ]
    (mine := tmp_path / "mine.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    model = dataclasses.replace(prepare.fake_model(), gguf=gguf)
    with pytest.raises(SeedFileError, match=r"mine\.jsonl, line 4 "):
        prepare._check_lengths(config.make({"seeds": str(mine)}), model, lambda event: None)


def test_another_file_under_the_name_of_a_runs_model_is_used_by_no_verb(tmp_path: Path) -> None:
    from minisheep import config, prepare

    gguf = converted(tmp_path / "a")
    model = dataclasses.replace(
        prepare.fake_model(), name="tiny", gguf=gguf, gguf_sha256=sha256_file(gguf), inference_gguf=gguf,
        template=plain("<|endoftext|>"),
    )  # fmt: skip
    settings = config.make({"model": str(gguf)})
    for needed in ("gguf", "inference_gguf"):
        assert prepare.ensure_files(model, settings, lambda event: None, needed).gguf == gguf
    gguf.write_bytes(gguf.read_bytes()[:-1] + b"!")
    for needed in ("gguf", "inference_gguf"):
        with pytest.raises(RunMismatchError, match="The file of tiny has changed since the run began"):
            prepare.ensure_files(model, settings, lambda event: None, needed)


def test_a_run_that_goes_on_takes_the_weights_that_were_checked_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """model.json may come from another machine, or from anybody: any folder that is there would have passed."""
    from minisheep import config, prepare
    from minisheep.trainers.choose_trainer import choose_trainer

    (gguf := tmp_path / "m.gguf").write_bytes(b"GGUF")
    here = dataclasses.replace(prepare.fake_model(), gguf=gguf, inference_gguf=gguf, weights=tmp_path / "checked")
    monkeypatch.setattr(prepare, "_prepare_real", lambda settings, emit: here)
    for name in ("_check_offload", "_check_before_fetching", "_check_gpu"):
        monkeypatch.setattr(prepare, name, lambda *_: None)
    monkeypatch.setattr(prepare, "choose_trainer", lambda *_: choose_trainer("peft", "auto", "llama"))
    dataclasses.replace(here, title="began", weights=Path("/dev")).write(tmp_path / "model.json")
    kept = prepare.prepare(config.make({}), tmp_path / "model.json", lambda event: None)
    assert kept.weights == tmp_path / "checked" and kept.title == "began"


def test_seeds_that_only_together_are_too_long_are_named_until_the_rest_fits() -> None:
    with pytest.raises(SeedFileError, match="line 7") as refused:
        checked(seeds(5, 5, 5, 5, 5, 120, 130), 200)
    assert "line 6" not in refused.value.message


def test_a_context_that_is_too_small_for_any_seeds_says_so() -> None:
    with pytest.raises(UsageError, match="too small"):
        checked(seeds(5, 60, 60, 60), 140)


def test_what_fits_is_left_alone_and_a_narrow_judge_is_told() -> None:
    assert checked(seeds(*[5] * 8), 300) == []
    (warning,) = checked(seeds(*[5] * 8), 300, assess="both", context=300, **SMALL)
    assert "--context 300 may be too small" in warning and "Give --context" in warning


def test_what_llama_cpp_puts_right_itself_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = converted(tmp_path / "a")
    said = ["control-looking token: 212 '</s>' was not control-type. its type will be overridden", "something else"]
    monkeypatch.setattr("minisheep.engines.native.warnings", lambda: said)
    (told,) = check_model(gguf, read_header(gguf), plain("<|endoftext|>")).warnings
    assert "something else" in told
