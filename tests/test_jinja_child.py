"""A stranger's chat template: bounded in time, memory and output, and its thoughts closed."""

from __future__ import annotations

import pytest

from minisheep.errors import UnsupportedModelError
from minisheep.machine import jinja_child
from minisheep.rules.templates import closed_source, conversation, from_jinja, render_here

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\nOPEN' }}{% endif %}"
)
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
SAID = [{"role": "user", "content": "Hi"}]


def thinking(opened: str) -> str:
    return CHATML.replace("OPEN", opened)


@pytest.mark.parametrize(
    "source",
    [
        LOOP,
        "{{ 'a' * 10 ** 10 }}",
        "{{ 'a' * 10 ** 7 }}",
        "{{ messages.__class__.__mro__ }}{{ undefined.x.y }}",
    ],
    ids=["time", "memory", "output", "escape"],
)
def test_a_template_without_end_or_measure_is_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja_child, "SECONDS", 1.5)
    with pytest.raises(UnsupportedModelError, match="chat template cannot be used") as refused:
        jinja_child.render(source, {}, [(SAID, True)])
    assert "--template" in refused.value.fix


def test_a_template_is_ended_by_the_work_it_makes_and_not_by_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert jinja_child.WAITED * jinja_child.SECONDS >= 60
    monkeypatch.setattr(jinja_child, "SECONDS", 1.0)
    monkeypatch.setattr(jinja_child, "WAITED", 60)
    with pytest.raises(UnsupportedModelError, match="it did not end within 1 s"):
        jinja_child.render(LOOP, {}, [(SAID, True)])


def test_the_child_renders_as_this_process_does_and_sees_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked = [(SAID, True), (SAID, False)]
    assert jinja_child.render(CHATML, {}, asked) == render_here(CHATML, {}, asked)
    assert "HF_TOKEN" not in jinja_child._KEPT


def test_the_block_that_marks_what_is_learnt_is_rendered_as_its_content() -> None:
    marked = CHATML.replace("{{ '<|im_start|>'", "{% generation %}{{ '<|im_start|>'").replace(
        "{% endfor %}", "{% endgeneration %}{% endfor %}"
    )
    assert from_jinja(marked, {}, jinja_child.render) == from_jinja(CHATML, {})


@pytest.mark.parametrize("opened", ["<think>\\n", "<think>", "<reasoning>\\n", "[THINK]", "<|begin_of_thought|>"])
def test_a_thought_that_is_left_open_is_closed_in_the_run_and_in_what_it_exports(opened: str) -> None:
    source = thinking(opened)
    template = from_jinja(source, {})
    tag = opened.removesuffix("\\n")
    assert tag in template.between and template.between.endswith("\n\n") and template.between.count(tag[1:-1]) >= 1
    closed = closed_source(source, {}, template)
    (rendered,) = render_here(closed, {}, [(SAID, True)])
    assert rendered == f"{template.before}Hi{template.between}"
    assert from_jinja(closed, {}) == template
    assert conversation(template, source, {}).again is not None


@pytest.mark.parametrize("opened", ["", "<think>\\n\\n</think>\\n\\n"])
def test_a_template_that_opens_nothing_is_left_as_it_is(opened: str) -> None:
    template = from_jinja(thinking(opened), {})
    assert closed_source(thinking(opened), {}, template) == thinking(opened)
    assert template.between.count("</think>") == opened.count("</think>")


THINKS_ALWAYS = thinking("<think>\\n").replace(
    "+ m['content']", "+ (EMPTY if m.role == 'assistant' else '') + m['content']"
)


def test_a_thought_that_a_given_answer_shows_empty_is_closed_in_the_templates_own_words() -> None:
    """As in Qwen3's thinking models of 2507: a prompt opens a thought, and a given answer has an empty one."""
    own = "<think>\\n\\n</think>\\n\\n"
    template = from_jinja(THINKS_ALWAYS.replace("EMPTY", f"'{own}'"), {})
    assert template.between.endswith("assistant\n<think>\n\n</think>\n\n")


def test_json_and_what_is_not_given_are_as_in_transformers() -> None:
    source = (
        "{{ '<|im_start|>system\\n' + (['<é>'] | tojson) + ('<b>' | tojson(ensure_ascii=True)) + '<|im_end|>\\n' }}"
        "{% if documents is not none or tools is not none %}more{% endif %}"
    )
    assert from_jinja(source + CHATML, {}).before == ('<|im_start|>system\n["<é>"]"<b>"<|im_end|>\n<|im_start|>user\n')
