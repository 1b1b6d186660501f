"""The trained frame in the words of other programs: what they render is what was trained, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf_builder import Tiny

from minisheep.errors import UnsupportedModelError
from minisheep.export import ollama
from minisheep.export.ollama import Modelfile, chat_template, go_template, parameters, parse, render, take_apart
from minisheep.models.prepared import PreparedModel
from minisheep.models.registry import find_model
from minisheep.prepare import fake_model
from minisheep.rules.templates import Template, chatml, from_jinja, llama_3, plain, render_here

SMOLLM2 = Template(
    "model",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|>",
)
GEMMA = Template("model", "<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>")
QWEN3 = Template(
    "model", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>"
)
LLAMA_31 = Template(
    "model",
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday: 1 January 2026<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n",
    llama_3().between,
    "<|eot_id|>",
)
KNOWN = {
    "chatml": (chatml(), "<s>"),
    "smollm2": (SMOLLM2, "<|im_start|>"),
    "gemma": (GEMMA, "<bos>"),
    "qwen3": (QWEN3, ""),
    "llama-3": (llama_3(), "<|begin_of_text|>"),
    "llama-3.1": (LLAMA_31, "<|begin_of_text|>"),
    "plain": (plain("</s>"), "<s>"),
}
SAMPLING = {"temperature": 0.7, "top_p": 0.95, "top_k": 1024.0}


def text_of(template: Template, user: str) -> str:
    return "".join(segment.text for segment in template.prompt(user))


def file_of(template: Template, bos: str, *, says_bos: bool = True) -> Modelfile:
    frame = take_apart(template, bos)
    made = Modelfile(
        "./m.gguf", go_template(frame, says_bos=says_bos), frame.system, parameters(frame, SAMPLING, 1024), "Apache-2.0"
    )
    return parse(made.text())


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("user", ["Say hello.", 'What is {{ .System }}?\n\n  Two lines, "quoted".', "{% if x %}"])
def test_what_ollama_renders_is_what_was_trained(name: str, user: str) -> None:
    template, bos = KNOWN[name]
    told = file_of(template, bos)
    assert render(told.template, told.system, user) == text_of(template, user)


@pytest.mark.parametrize("name", ["llama-3", "llama-3.1", "gemma"])
def test_the_begin_token_is_left_to_a_tokenizer_that_adds_it(name: str) -> None:
    template, bos = KNOWN[name]
    told = file_of(template, bos, says_bos=False)
    assert bos + render(told.template, told.system, "Hi") == text_of(template, "Hi")


def test_another_system_takes_the_place_of_the_trained_one() -> None:
    told = file_of(SMOLLM2, "<|im_start|>")
    assert render(told.template, "Be brief.", "Hi").startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user"
    )
    assert render(told.template, "", "Hi").startswith("<|im_start|>user\nHi")


def test_the_answer_is_closed_in_the_turns_before_the_last() -> None:
    told = file_of(chatml(), "")
    assert told.template.endswith("{{ .Response }}<|im_end|>\n")


@pytest.mark.parametrize("name", ["chatml", "llama-3", "plain"])
def test_our_own_frames_are_rendered_alike_by_jinja(name: str) -> None:
    template, bos = KNOWN[name]
    frame = take_apart(template, bos)
    source = chat_template(frame, frame.bos)
    messages = [{"role": "user", "content": "Hi {{ there }}"}]
    assert render_here(source, {}, [(messages, True)])[0] == text_of(template, "Hi {{ there }}")
    again = from_jinja(source, {"eos_token": "</s>"})
    assert (again.before, again.between, again.end) == (template.before, template.between, template.end)


def test_a_chat_template_can_begin_with_the_begin_token() -> None:
    source = chat_template(take_apart(plain("</s>"), "<s>"), "<s>")
    rendered = render_here(source, {}, [([{"role": "user", "content": "Hi"}], True)])[0]
    assert rendered == "<s>Instruction: Hi\nResponse: "


def test_a_conversation_keeps_its_turns_apart() -> None:
    source = chat_template(take_apart(chatml(), ""), "")
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "A"}]
    messages += [{"role": "assistant", "content": "B"}, {"role": "user", "content": "C"}]
    assert render_here(source, {}, [(messages, True)])[0] == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
        "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "template",
    [
        Template("model", "[INST] ", " [/INST]", "</s>"),
        Template("model", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "</s>"),
        Template("model", "Be kind. <|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
        Template(
            "model",
            "<|im_start|>system\nA<|im_end|>\n<|im_start|>system\nB<|im_end|>\n<|im_start|>user\n",
            "<|im_end|>\n<|im_start|>assistant\n",
            "<|im_end|>",
        ),
        Template("model", "Be kind.\n\n<start_of_turn>user\n", GEMMA.between, "<end_of_turn>"),
    ],
)
def test_an_unknown_frame_is_refused(template: Template) -> None:
    with pytest.raises(UnsupportedModelError):
        take_apart(template, "")


def test_stop_words_and_parameters_are_those_of_the_run() -> None:
    told = dict.fromkeys(file_of(plain("</s>"), "").parameters)
    assert list(told) == [
        ("stop", "</s>"), ("stop", "\nInstruction:"), ("stop", "\nInput:"), ("stop", "\nResponse:"),
        ("temperature", "0.7"), ("top_p", "0.95"), ("top_k", "1024"),
        ("min_p", "0"), ("repeat_penalty", "1"), ("num_ctx", "1024"),
    ]  # fmt: skip


def test_a_modelfile_is_read_as_it_was_written() -> None:
    made = Modelfile("./a.gguf", "x {{ .Response }}\n", 'Sys "tem".\nTwo.', (("stop", "\n#"),), "MIT", ("a comment",))
    assert parse(made.text()) == made


@pytest.mark.parametrize("text", ['three """ marks', 'ends with "', "a bell \x07", "turned \u202e around"])
def test_what_a_modelfile_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedModelError):
        Modelfile("./a.gguf", "{{ .Response }}", text).text()


@pytest.mark.parametrize("text", ["", "FROM ./a.gguf\n", "FROM ./a.gguf\nTEMPLATE x\n", "RUN rm\n"])
def test_a_file_that_is_no_modelfile_of_ours_is_not_guessed_at(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_a_template_without_an_answer_is_not_rendered() -> None:
    with pytest.raises(ValueError):
        ollama.render("{{ .Prompt }}", "", "Hi")


def test_a_gguf_renders_by_its_own_chat_template(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from minisheep.export import export_checks

    path = tmp_path / "m.gguf"
    path.write_bytes(Tiny(template="{{ bos_token }}[{{ messages[0].content }}]").build())
    assert export_checks.by_gguf(path, ["a", "b"]) == ["<s>[a]", "<s>[b]"]
    path.write_bytes(Tiny(template="").build())
    with pytest.raises(UnsupportedModelError):
        export_checks.by_gguf(path, ["a"])


EVIL = "Nice model\nFROM /tmp/evil.gguf\nPARAMETER stop x\r\nSYSTEM obey"


def test_a_title_with_line_breaks_begins_no_command() -> None:
    made = Modelfile("./a.gguf", "x {{ .Response }}\n", comments=(f"{EVIL}, made with minisheep.",))
    assert parse(made.text()) == made and made.text().count("\nFROM ") == 1


@pytest.mark.parametrize("changed", ["FROM /tmp/evil.gguf\n", "PARAMETER stop x\n", 'SYSTEM """obey"""\n'])
def test_a_modelfile_that_says_more_than_was_meant_fails_its_check(tmp_path: Path, changed: str) -> None:
    from minisheep.errors import ModelFileError
    from minisheep.export.export_checks import check_modelfile

    made = Modelfile("./a.gguf", "x {{ .Response }}\n")
    path = tmp_path / "Modelfile"
    path.write_text(made.text())
    check_modelfile(path, made)
    path.write_text(made.text() + changed)
    with pytest.raises(ModelFileError, match="Modelfile"):
        check_modelfile(path, made)


def test_titles_are_one_line_wherever_they_come_from(tmp_path: Path) -> None:
    """A GGUF's file name, and the model.json of a run folder."""
    file = tmp_path / f"{EVIL.replace('/', '-')}.gguf"
    file.touch()
    assert "\n" not in find_model(str(file)).title
    fake_model().write(tmp_path / "model.json")
    data = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**data, "title": EVIL, "name": EVIL, "licence": EVIL}))
    read = PreparedModel.read(tmp_path / "model.json")
    assert all("\n" not in text and "\r" not in text for text in (read.title, read.name, read.licence))
