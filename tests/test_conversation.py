"""Several turns in the run's own template: the same frame as a single turn, and nothing where it has no place."""

from __future__ import annotations

import pytest
from test_template import REAL, SPECIAL

from minisheep.rules.templates import (
    Conversation,
    Message,
    Segment,
    Template,
    chatml,
    conversation,
    from_jinja,
    llama_3,
    plain,
    renderer,
)

SYSTEMLESS = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FORGETFUL = (
    "<u>{{ messages[-1].content if messages[-1].role == 'user' else messages[-2].content }}</u>"
    "{% if messages[-1].role == 'assistant' %}{{ messages[-1].content }}<|end|>{% endif %}"
)


def talk(*texts: str) -> list[Message]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def text_of(prompt: tuple[Segment, ...]) -> str:
    return "".join(segment.text for segment in prompt)


def own(source: str) -> Conversation:
    return conversation(from_jinja(source, SPECIAL), source, SPECIAL)


@pytest.mark.parametrize("name", list(REAL))
def test_one_turn_is_framed_as_the_run_frames_it(name: str) -> None:
    found = own(REAL[name][0])
    assert found.prompt(talk("Why?")) == found.template.prompt("Why?")


@pytest.mark.parametrize("name", list(REAL))
def test_several_turns_are_what_the_models_own_template_makes_of_them(name: str) -> None:
    source = REAL[name][0]
    found, said = own(source), talk("One?", "First.", "Two?", "Second.", "Three?")
    assert text_of(found.prompt(said)) == renderer(source, SPECIAL)(said, True)


@pytest.mark.parametrize("name", ["chatml", "header", "bracket"])
def test_only_the_templates_own_text_is_special(name: str) -> None:
    words = ("<|im_end|>", "</s>", "[INST]")
    prompt = own(REAL[name][0]).prompt(talk(*words))
    assert [segment.text for segment in prompt if not segment.special] == list(words)


@pytest.mark.parametrize("name", ["chatml", "header", "turn"])
def test_a_system_message_stands_where_the_template_puts_it(name: str) -> None:
    source = REAL[name][0]
    found, said = own(source), talk("One?", "First.", "Two?")
    if name == "turn":
        # Its roles must alternate, and a system message breaks that.
        assert found.system is None
        return
    told = [{"role": "system", "content": "Be brief."}, *said]
    assert text_of(found.prompt(said, "Be brief.")) == renderer(source, SPECIAL)(told, True)


def test_a_template_that_refuses_a_system_message_still_takes_several_turns() -> None:
    found = own(SYSTEMLESS)
    assert found.system is None and found.again == "<|end|><user>"


def test_a_template_that_shows_the_last_turn_alone_takes_one() -> None:
    found = own(FORGETFUL)
    assert found.again is None
    assert text_of(found.prompt(talk("Why?"))) == "<u>Why?</u>"
    with pytest.raises(ValueError):
        found.prompt(talk("One?", "First.", "Two?"))
    with pytest.raises(ValueError):
        found.prompt(talk("One?"), "Be brief.")


def test_a_file_whose_template_is_not_the_runs_is_not_believed() -> None:
    stored = Template("model", "<other>", "<answer>", "<|end|>")
    found = conversation(stored, REAL["chatml"][0], SPECIAL)
    assert found.again is None and found.prompt(talk("Why?")) == stored.prompt("Why?")


@pytest.mark.parametrize("source", ["", "{% for %}", "{{ messages[7].content }}", "{{ 1 / 0 }}"])
def test_a_broken_template_takes_one_turn(source: str) -> None:
    found = conversation(Template("model", "<u>", "<a>", "</a>"), source, SPECIAL)
    assert (found.again, found.system) == (None, None)


@pytest.mark.parametrize("template", [chatml(), llama_3(), plain("</s>")], ids=lambda t: str(t.name))
def test_the_templates_of_minisheep_take_turns_and_a_system_message(template: Template) -> None:
    found = conversation(template, "", {})
    assert found.prompt(talk("Why?")) == template.prompt("Why?")
    told = text_of(found.prompt(talk("One?", "First.", "Two?"), "Be brief."))
    places = [told.index(word) for word in ("Be brief.", "One?", "First.", "Two?")]
    assert places == sorted(places) and told.endswith(f"Two?{template.between}")


def test_chatml_reads_as_written_out() -> None:
    told = text_of(conversation(chatml(), "", {}).prompt(talk("One?", "First.", "Two?"), "Be brief."))
    assert told == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nFirst."
        "<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n"
    )
