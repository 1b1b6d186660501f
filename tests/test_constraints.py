"""What is drawn, shown and read off an answer, and how hard it is: pure rules, all by identity."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisheep.data.constraint_kinds import load_catalogue
from minisheep.data.seed_tasks import SeedTask, load_items, load_seeds
from minisheep.rules.constraint_edits import EDITS
from minisheep.rules.constraints import (
    ENOUGH,
    KindStanding,
    WordedConstraint,
    constrained,
    curriculum,
    draw,
    hindsight,
    is_constrained,
    kind_in_words,
    solved_with,
)
from minisheep.rules.ifeval import KINDS, verify
from minisheep.rules.similarity import NoveltyIndex

OWN = load_catalogue(plugins=False)
SEEDS = load_seeds()
COMMA, WORDS, BULLETS = (
    "punctuation:no_comma",
    "length_constraints:number_words",
    "detectable_format:number_bullet_lists",
)


def only(*kinds: str) -> Any:
    """A catalogue that trains on these alone."""
    return replace(OWN, kinds={name: replace(kind, trained=name in kinds) for name, kind in OWN.kinds.items()})


# The shipped split


def test_twelve_kinds_are_trained_on_and_thirteen_never() -> None:
    unseen = OWN.kinds.keys() - OWN.trained
    assert len(OWN.trained) == 12 and len(unseen) == 13 and OWN.kinds.keys() == set(KINDS)
    assert OWN.trained == set(EDITS)
    assert unseen.isdisjoint({COMMA, WORDS, BULLETS}) and "combination:repeat_prompt" in unseen


def test_every_kind_has_a_plain_name_of_its_own() -> None:
    names = {kind_in_words(kind) for kind in KINDS}
    assert len(names) == len(KINDS) and {"no comma", "title", "number of words", "capital letters alone"} < names
    assert not any(":" in name or "_" in name or len(name) > 25 for name in names)
    assert kind_in_words("mine:number_haiku") == "mine:number_haiku"


def test_every_trained_kind_has_four_wordings_of_our_own_and_they_fit_behind_an_instruction() -> None:
    for name in OWN.trained:
        kind = OWN.kinds[name]
        assert len(set(kind.wordings)) >= 4, name
        worded = {
            kind.worded(arguments, _FixedChance(w)).wording for w in kind.wordings for arguments in kind.levels[0]
        }
        assert all(text[0].isupper() and "\n" not in text for text in worded), name


class _FixedChance:
    """Draws one given wording."""

    def __init__(self, wording: str) -> None:
        self._wording = wording

    def choice(self, _: object) -> str:
        return self._wording


def test_arguments_are_spoken_inside_the_wording() -> None:
    chance: Any = _FixedChance("Use {relation} {num_words} words, {{so}}.")
    arguments = {"num_words": 40, "relation": "less than"}
    assert OWN.kinds[WORDS].worded(arguments, chance) == WordedConstraint(
        WORDS, arguments, "Use less than 40 words, {so}."
    )
    chance = _FixedChance("Mention {keywords}.")
    assert OWN.kinds["keywords:existence"].worded({"keywords": ["a", "b"]}, chance).wording == 'Mention "a", "b".'


def test_a_constraint_survives_json() -> None:
    drawn = draw(OWN, {}, 1)
    assert WordedConstraint.from_dict(json.loads(json.dumps(drawn.to_dict()))) == drawn


# What is drawn


def test_a_draw_follows_from_its_identity_and_reaches_every_kind() -> None:
    assert draw(OWN, {}, 1, "a") == draw(OWN, {}, 1, "a")
    drawn = [draw(OWN, {}, 1, n) for n in range(400)]
    kinds = Counter(constraint.kind for constraint in drawn)
    assert set(kinds) == OWN.trained and max(kinds.values()) < 70
    assert all(constraint.arguments in OWN.kinds[constraint.kind].levels[0] for constraint in drawn)
    words = {constraint.wording for constraint in drawn if constraint.kind == COMMA}
    assert words == set(OWN.kinds[COMMA].wordings)


def test_a_draw_heeds_level_and_weight() -> None:
    standings = {COMMA: KindStanding(0, 1 / 8), WORDS: KindStanding(2, 1.0)}
    drawn = Counter(draw(only(COMMA, WORDS), standings, n).kind for n in range(400))
    assert 400 / 9 * 0.5 < drawn[COMMA] < 400 / 9 * 1.7
    limits = {draw(only(WORDS), standings, n).arguments["num_words"] for n in range(50)}
    assert limits == {25, 60}
    # A run that is gone on with another file may stand above what that file knows.
    assert draw(only(WORDS), {WORDS: KindStanding(99)}, 1).arguments in OWN.kinds[WORDS].levels[-1]


@settings(deadline=None)
@given(st.integers())
def test_a_share_of_nothing_and_of_all(identity: int) -> None:
    assert not is_constrained(0.0, identity) and is_constrained(1.0, identity)


def test_a_share_is_about_its_size() -> None:
    assert 450 < sum(is_constrained(0.5, 1, n) for n in range(1000)) < 550


@pytest.mark.parametrize(
    ("instruction", "whole"),
    [
        ("Name a bird.", "Name a bird. Be brief."),
        ("Name a bird", "Name a bird. Be brief."),
        ("Name a bird (any)", "Name a bird (any). Be brief."),
        ('Say "hi."', 'Say "hi." Be brief.'),
        ("Which bird? ", "Which bird? Be brief."),
        ("Translate:", "Translate: Be brief."),
        ("List:\n- a\n- b", "List:\n- a\n- b.\nBe brief."),
        ("", "Be brief."),
    ],
)
def test_a_constraint_stands_behind_its_instruction(instruction: str, whole: str) -> None:
    assert constrained(instruction, "Be brief.") == whole


# How hard it is


def rounds(*shares: tuple[int, int]) -> list[dict[str, tuple[int, int]]]:
    return [{WORDS: share} for share in shares]


@pytest.mark.parametrize(
    ("history", "level", "weight"),
    [
        ([], 0, 1.0),
        ([(40, 20)], 0, 1.0),
        ([(40, 36)], 0, 1.0),
        ([(40, 37)], 1, 1.0),
        ([(40, 40)] * 3, 3, 1.0),
        ([(40, 40)] * 4, 3, 0.5),
        ([(40, 40)] * 9, 3, 1 / 8),
        ([(40, 40)] * 9 + [(40, 20)], 3, 1.0),
        ([(40, 40)] * 2 + [(40, 3)], 1, 1.0),
        ([(40, 0)], 0, 0.5),
        ([(40, 0)] * 9, 0, 1 / 8),
        ([(40, 0)] * 9 + [(40, 4)], 0, 1.0),
        ([(40, 0), (40, 40)], 1, 1.0),
    ],
)
def test_a_kind_gets_harder_where_it_is_easy(history: list[tuple[int, int]], level: int, weight: float) -> None:
    assert curriculum(only(WORDS), rounds(*history)) == {WORDS: KindStanding(level, weight)}


def test_a_few_answers_wait_for_those_of_the_next_round() -> None:
    few = (ENOUGH - 1, ENOUGH - 1)
    assert curriculum(only(WORDS), rounds(few))[WORDS].level == 0
    assert curriculum(only(WORDS), rounds(few, few))[WORDS].level == 1
    # Both rounds count together: together they are at a half.
    assert curriculum(only(WORDS), rounds(few, (ENOUGH, 0)))[WORDS] == KindStanding(0, 1.0)


def test_a_round_without_a_kind_leaves_it_where_it_was() -> None:
    assert curriculum(only(WORDS), [{WORDS: (40, 40)}, {}, {COMMA: (40, 40)}]) == {WORDS: KindStanding(1, 1.0)}


def test_only_trained_kinds_have_a_standing() -> None:
    assert set(curriculum(OWN, [{"startend:other": (9, 9)}])) == OWN.trained


# Solved tasks with a constraint


@pytest.mark.parametrize("kind", sorted(OWN.trained))
def test_every_trained_kind_has_solved_tasks_at_every_level(kind: str) -> None:
    by_id = {seed.id: seed for seed in SEEDS}
    for level in range(len(OWN.kinds[kind].levels)):
        made = solved_with(OWN, kind, {kind: KindStanding(level)}, SEEDS, 6, 1, "respond")
        assert len({id_ for id_, *_ in made}) == 6
        for id_, task, answer, constraint in made:
            seed = by_id[id_]
            assert not seed.held_out and task.input == seed.input and constraint.kind == kind
            assert task.instruction == constrained(seed.instruction, constraint.wording)
            assert verify(kind, constraint.arguments, task.instruction, answer)


def test_solved_tasks_follow_from_identity_and_not_from_the_order_of_the_seeds() -> None:
    one = solved_with(OWN, WORDS, {}, SEEDS, 4, 1, 2)
    assert one == solved_with(OWN, WORDS, {}, SEEDS[::-1], 4, 1, 2) != solved_with(OWN, WORDS, {}, SEEDS, 4, 1, 3)
    assert {c.arguments["relation"] for *_, c in one} == {"less than", "at least"}


def test_no_edit_is_used_that_the_check_refuses() -> None:
    lazy = replace(OWN.kinds[COMMA], edit=lambda answer: answer)
    made = solved_with(replace(OWN, kinds={COMMA: lazy}), COMMA, {}, SEEDS, 999, 1)
    assert made and all("," not in answer for _, _, answer, _ in made)


def test_a_kind_without_an_edit_is_shown_by_answers_that_keep_it_as_they_are() -> None:
    bare = replace(OWN.kinds[COMMA], edit=None)
    made = solved_with(replace(OWN, kinds={COMMA: bare}), COMMA, {}, SEEDS, 4, 1)
    outputs = {seed.id: seed.output for seed in SEEDS}
    assert len(made) == 4 and all(outputs[id_] == answer for id_, _, answer, _ in made)


def test_a_keyword_of_a_solved_task_is_no_word_of_its_question() -> None:
    for _, task, answer, constraint in solved_with(OWN, "keywords:existence", {}, SEEDS, 20, 1):
        before = task.instruction.removesuffix(constraint.wording) + task.input
        assert all(word in answer.lower() and word not in before.lower() for word in constraint.arguments["keywords"])


def test_a_task_that_asks_for_capitals_is_not_shown_in_lower_case() -> None:
    seeds = [SeedTask("a", "", "Add the capital letters.", "", "It rains in Rome today and nobody minds.", False)]
    assert not solved_with(OWN, "change_case:english_lowercase", {}, seeds, 1, 1)


PROSE = "The sea is wide, and the sky is grey. Gulls cry above the old harbour. Boats wait for the tide."
CODE = "def add(a, b):\n    return a + b"
LETTER = "Dear Ann,\n\nthank you for the jam.\n\nYours, Bo"
LIST = "- one egg\n- two pears\n- three figs"
EDITED: list[tuple[str, dict[str, Any], str, str | None]] = [
    (COMMA, {}, PROSE, PROSE.replace(",", "")),
    (COMMA, {}, "Buy eggs, milk and bread.", None),
    (COMMA, {}, "It costs 1,200 pounds.", None),
    ("change_case:english_lowercase", {}, "Ann is in Rome.", "ann is in rome."),
    ("change_case:english_capital", {}, "Ann is in Rome.", "ANN IS IN ROME."),
    (BULLETS, {"num_bullets": 3}, LIST, "* one egg\n* two pears\n* three figs"),
    (BULLETS, {"num_bullets": 2}, LIST, None),
    (BULLETS, {"num_bullets": 3}, "Paris, Rome and Oslo", "* Paris\n* Rome\n* Oslo"),
    (BULLETS, {"num_bullets": 2}, "It rained all day, but we went out.", "* It rained all day.\n* But we went out."),
    (BULLETS, {"num_bullets": 2}, "One. Two. Three. Four.", "* One. Two.\n* Three. Four."),
    (BULLETS, {"num_bullets": 2}, LETTER, None),
    (BULLETS, {"num_bullets": 2}, "Rome", None),
    ("detectable_format:title", {}, PROSE, f"<<The Sea Is Wide>>\n{PROSE}"),
    ("detectable_format:title", {}, "7 and 8.", None),
    ("startend:quotation", {}, 'He said "no".', "\"He said 'no'.\""),
    ("startend:end_checker", {"end_phrase": "Bye."}, "Rome", "Rome. Bye."),
    ("startend:end_checker", {"end_phrase": "Bye."}, LIST, f"{LIST}\nBye."),
    (WORDS, {"num_words": 15, "relation": "less than"}, PROSE, PROSE.split(" Boats")[0].split(" Gulls")[0]),
    (WORDS, {"num_words": 5, "relation": "less than"}, PROSE, None),
    (WORDS, {"num_words": 60, "relation": "less than"}, "Rome", None),
    (WORDS, {"num_words": 15, "relation": "at least"}, PROSE, PROSE),
    (WORDS, {"num_words": 99, "relation": "at least"}, PROSE, None),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 1},
        PROSE,
        PROSE.replace("harbour", "*harbour*"),
    ),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 9}, "Rome", None),
    ("detectable_format:json_format", {}, LIST, '{"items": ["one egg", "two pears", "three figs"]}'),
    ("detectable_format:json_format", {}, "Name: Bo\nAge: 7", '{"name": "Bo", "age": "7"}'),
    ("detectable_format:json_format", {}, 'A "é".', '{"answer": "A \\"é\\"."}'),
    ("detectable_format:json_format", {}, LETTER, None),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        PROSE,
        PROSE.replace(" Boats", "\n\nP.S. Boats"),
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "One sentence alone.", None),
    ("keywords:existence", {"keywords": ["gulls"]}, PROSE, PROSE),
]


@pytest.mark.parametrize(("kind", "arguments", "answer", "edited"), EDITED, ids=range(len(EDITED)))
def test_an_edit_makes_natural_text_or_none(
    kind: str, arguments: dict[str, Any], answer: str, edited: str | None
) -> None:
    assert EDITS[kind](answer, **arguments) == edited
    if edited is not None and not kind.startswith("change_case"):
        assert verify(kind, arguments, "", edited)


@pytest.mark.parametrize("kind", sorted(OWN.trained))
def test_code_is_left_alone(kind: str) -> None:
    for arguments in (a for level in OWN.kinds[kind].levels for a in level):
        assert EDITS[kind](CODE, **arguments) is None


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_no_edit_fails_on_any_text(text: str) -> None:
    for kind, edit in EDITS.items():
        made = edit(text, **OWN.kinds[kind].levels[0][0])
        assert made is None or isinstance(made, str)


# What is read off an answer

LONG = " ".join(["word"] * 70)


def test_what_is_read_off_is_true_of_the_answer_and_not_of_a_fifth_of_the_others() -> None:
    others = [LONG] * 2 + ["Short here."] * 8
    found = hindsight(only(WORDS), "A short answer.", others, 1)
    assert found is not None and found.arguments == {"num_words": 15, "relation": "less than"}
    assert "15" in found.wording and verify(WORDS, found.arguments, "", "A short answer.")
    assert hindsight(only(WORDS), "A short answer.", ["Short here."] * 9 + [LONG], 1) is None
    assert hindsight(only(WORDS), "A short answer.", [], 1) is None


def test_the_tightest_limit_and_the_exact_number_are_named() -> None:
    at_least = hindsight(only(WORDS), LONG, ["Short."], 1)
    assert at_least is not None and at_least.arguments == {"num_words": 60, "relation": "at least"}
    bullets = hindsight(only(BULLETS), "* a\n* b\n* c", ["none"], 1)
    assert bullets is not None and bullets.arguments == {"num_bullets": 3}


def test_every_reading_is_kept_by_its_answer_over_real_answers() -> None:
    answers = [seed.output for seed in SEEDS]
    found = [(answer, hindsight(OWN, answer, answers, n)) for n, answer in enumerate(answers[:80])]
    read = [(answer, c) for answer, c in found if c is not None]
    assert len(read) > 60 and len({c.kind for _, c in read}) >= 3
    for answer, constraint in read:
        assert constraint.kind in OWN.trained and verify(constraint.kind, constraint.arguments, "", answer)
        broken = sum(not verify(constraint.kind, constraint.arguments, "", other) for other in answers)
        assert broken >= 0.1 * len(answers)


def test_nothing_is_read_off_by_an_unseen_kind_or_a_plug_in() -> None:
    def asked(answer: str, **_: Any) -> bool:
        raise AssertionError("a plug-in is asked by a Checker alone")

    plugin = replace(OWN.kinds[COMMA], name="mine:a", plugin=True, check=asked)
    assert hindsight(replace(OWN, kinds={"mine:a": plugin}), "a", ["b"], 1) is None
    assert hindsight(only(), "A short answer.", [LONG], 1) is None


def test_no_wording_is_a_copy_of_a_measured_prompt() -> None:
    """The measured half says the same things in other words, or a gain would be one of memory."""
    index = NoveltyIndex(item.prompt for item in load_items())
    for name in OWN.trained:
        for wording in OWN.kinds[name].wordings:
            assert index.nearest(wording)[0] < 0.7, wording
