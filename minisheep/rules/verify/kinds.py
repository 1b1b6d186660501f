"""IFEval's 25 kinds of instruction: the arguments that each takes, and what decides it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from minisheep.rules.verify import arguments as read
from minisheep.rules.verify import content, layout
from minisheep.rules.verify.arguments import Reader


@dataclass(frozen=True, slots=True)
class Kind:
    """`decide` is called with the answer and the arguments, as their readers returned them."""

    decide: Callable[..., bool]
    arguments: Mapping[str, Reader] = field(default_factory=dict)
    defaults_to_prompt: str = ""
    """An argument that is the whole prompt where it is not given."""


KINDS: dict[str, Kind] = {
    "keywords:existence": Kind(content.existence, {"keywords": read.patterns}),
    "keywords:frequency": Kind(
        content.frequency, {"keyword": read.pattern, "frequency": read.count, "relation": read.relation}
    ),
    "keywords:forbidden_words": Kind(content.forbidden_words, {"forbidden_words": read.patterns}),
    "keywords:letter_frequency": Kind(
        content.letter_frequency,
        {"letter": read.letter, "let_frequency": read.count, "let_relation": read.relation},
    ),
    "language:response_language": Kind(content.response_language, {"language": read.language}),
    "length_constraints:number_sentences": Kind(
        content.number_sentences, {"num_sentences": read.count, "relation": read.relation}
    ),
    "length_constraints:number_paragraphs": Kind(content.number_paragraphs, {"num_paragraphs": read.place}),
    "length_constraints:number_words": Kind(content.number_words, {"num_words": read.count, "relation": read.relation}),
    "length_constraints:nth_paragraph_first_word": Kind(
        content.nth_paragraph_first_word,
        {"num_paragraphs": read.place, "nth_paragraph": read.place, "first_word": read.text},
    ),
    "detectable_content:number_placeholders": Kind(layout.number_placeholders, {"num_placeholders": read.count}),
    "detectable_content:postscript": Kind(layout.postscript, {"postscript_marker": read.pattern}),
    "detectable_format:number_bullet_lists": Kind(layout.number_bullet_lists, {"num_bullets": read.count}),
    "detectable_format:constrained_response": Kind(layout.constrained_response),
    "detectable_format:number_highlighted_sections": Kind(
        layout.number_highlighted_sections, {"num_highlights": read.count}
    ),
    "detectable_format:multiple_sections": Kind(
        layout.multiple_sections, {"section_spliter": read.pattern, "num_sections": read.count}
    ),
    "detectable_format:json_format": Kind(layout.json_format),
    "detectable_format:title": Kind(layout.title),
    "combination:two_responses": Kind(layout.two_responses),
    "combination:repeat_prompt": Kind(
        layout.repeat_prompt, {"prompt_to_repeat": read.text}, defaults_to_prompt="prompt_to_repeat"
    ),
    "startend:end_checker": Kind(layout.end_checker, {"end_phrase": read.text}),
    "startend:quotation": Kind(layout.quotation),
    "change_case:capital_word_frequency": Kind(
        content.capital_word_frequency, {"capital_frequency": read.count, "capital_relation": read.relation}
    ),
    "change_case:english_capital": Kind(content.english_capital),
    "change_case:english_lowercase": Kind(content.english_lowercase),
    "punctuation:no_comma": Kind(layout.no_comma),
}
