"""The verifiable stage over a scripted engine: what is asked, and what is measured."""

from __future__ import annotations

import json

import pytest

from minisheep import config
from minisheep.data.constraint_kinds import default_trained_kinds
from minisheep.data.seed_tasks import load_items
from minisheep.engines.base import Completion, GenerateRequest
from minisheep.engines.fake_engine import FakeEngine, text_of
from minisheep.rules.ifeval import Constraint, VerifiableItem
from minisheep.rules.prompts import Frame
from minisheep.rules.templates import chatml
from minisheep.run import typed
from minisheep.stages.collapse import echo
from minisheep.stages.evaluate import answers, chosen, metrics, with_halves

SETTINGS = config.make({})
FRAME = Frame(chatml())
ITEMS = [
    VerifiableItem("plain", "No commas.", (Constraint("punctuation:no_comma", {}),)),
    VerifiableItem(
        "both", "Title, no commas.", (Constraint("punctuation:no_comma", {}), Constraint("detectable_format:title", {}))
    ),
]


def said(id_: str, text: str, finish: str = "end") -> Completion:
    return Completion(id_, text, finish, len(text.split()))


def test_each_prompt_is_asked_once_greedily_in_the_frame() -> None:
    asked: list[GenerateRequest] = []

    def reply(request: GenerateRequest) -> str:
        asked.append(request)
        return "Yes."

    found = list(answers(FakeEngine(reply=reply), SETTINGS, FRAME, ITEMS))
    assert {completion.id for completion in found} == {"plain", "both"}
    assert [request.sampling.temperature for request in asked] == [0.0, 0.0]
    assert asked[0].sampling.max_tokens == SETTINGS.eval_verifiable_max_tokens
    assert asked[0].sampling.stop == FRAME.stop
    assert "No commas." in text_of(asked[0].prompt)
    assert not any(segment.special and "No commas." in segment.text for segment in asked[0].prompt)


def test_the_limit_of_an_answer_is_a_setting() -> None:
    short = SETTINGS.model_copy(update={"eval_verifiable_max_tokens": 2})
    (found, *_) = answers(FakeEngine(reply=lambda _: "one two three four"), short, FRAME, ITEMS)
    assert (found.finish, found.tokens) == ("length", 2)


def test_verdicts_are_counted_by_prompt_and_by_constraint() -> None:
    found = metrics(ITEMS, [said("plain", "It rains."), said("both", "Well, yes\n<<Rain>>", "length")])
    assert (found["verifiable_items"], found["verifiable_instructions"]) == (2, 3)
    values = {name: interval["value"] for name, interval in found["verifiable"].items()}
    assert values == {
        "prompt_strict": 0.5,
        "instruction_strict": pytest.approx(2 / 3),
        "prompt_loose": 1,
        "instruction_loose": 1,
        "prompt_own": 0.5,
        "instruction_own": pytest.approx(2 / 3),
        "ended": 0.5,
        "copied": 0,
    }
    assert found["verifiable_by_kind"] == {
        "detectable_format:title": {"n": 1, "strict": 1, "loose": 1, "own": 1},
        "punctuation:no_comma": {"n": 2, "strict": 1, "loose": 2, "own": 1},
    }
    assert found["verifiable_by_item"]["both"] == {
        "strict": [False, True], "loose": [True, True], "own": [False, True], "ended": False, "copied": False,
    }  # fmt: skip


def test_kinds_that_are_trained_on_are_counted_apart_from_the_others() -> None:
    said_ = [said("plain", "It rains."), said("both", "Well, yes\n<<Rain>>")]
    better = [said("plain", "It rains."), said("both", "Well yes\n<<Rain>>")]
    base = metrics(ITEMS, said_, trained=frozenset({"punctuation:no_comma"}))
    now = metrics(ITEMS, better, base, frozenset({"punctuation:no_comma"}))
    assert (base["verifiable_trained"]["instructions"], base["verifiable_unseen"]["instructions"]) == (2, 1)
    assert base["verifiable_trained"]["instruction_own"]["value"] == 0.5
    assert base["verifiable_unseen"]["instruction_own"]["value"] == 1.0
    assert now["verifiable_trained_change"]["instruction_own"]["value"] == 0.5
    assert now["verifiable_unseen_change"]["instruction_own"]["value"] == 0.0
    assert now["verifiable_by_item"]["both"]["trained"] == [True, False]
    assert {name for name in metrics(ITEMS, said_) if name.endswith(("trained", "unseen"))} == set()


def test_an_answer_that_says_the_instruction_back_keeps_nothing_in_its_own_words() -> None:
    item = VerifiableItem(
        "sun",
        "Name the star of our days. Use the word sun.",
        (Constraint("keywords:existence", {"keywords": ["sun"]}),),
    )
    echo = metrics([item], [said("sun", item.prompt + "\n" + item.prompt)])
    own = metrics([item], [said("sun", "Our days are lit by the sun, a small star among many others.")])
    values = {name: interval["value"] for name, interval in echo["verifiable"].items()}
    assert (values["instruction_strict"], values["instruction_own"], values["copied"]) == (1, 0, 1)
    values = {name: interval["value"] for name, interval in own["verifiable"].items()}
    assert (values["instruction_strict"], values["instruction_own"], values["copied"]) == (1, 1, 0)


def test_what_is_asked_to_be_repeated_is_no_copy() -> None:
    prompt = "First repeat this request word for word, then answer it: why does it rain?"
    item = VerifiableItem("twice", prompt, (Constraint("combination:repeat_prompt", {"prompt_to_repeat": prompt}),))
    found = metrics([item], [said("twice", prompt + " Clouds cool, and their drops grow heavy and fall.")])
    assert found["verifiable"]["copied"]["value"] == 0 and found["verifiable"]["prompt_own"]["value"] == 1


def test_a_base_of_an_earlier_version_is_paired_in_what_it_holds() -> None:
    base = metrics(ITEMS, [said("both", "a")])
    for verdict in base["verifiable_by_item"].values():
        del verdict["own"], verdict["copied"]
    found = metrics(ITEMS, [said("both", "a")], base)["verifiable_change"]
    assert "instruction_strict" in found and not {"instruction_own", "copied"} & set(found)


def test_the_change_is_paired_by_item_over_what_both_answered() -> None:
    base = metrics(ITEMS[:1], [said("plain", "a, b")])
    found = metrics(ITEMS, [said("plain", "a b"), said("both", "a")], base)
    assert found["verifiable_change"]["items"] == 1
    assert found["verifiable_change"]["prompt_strict"] == {"value": 1, "low": 1, "high": 1}
    assert found["verifiable_change"]["ended"]["value"] == 0


def test_the_base_survives_being_written_and_read() -> None:
    responses = [said("plain", "a, b"), said("both", "<<a>>")]
    base = metrics(ITEMS, responses)
    assert metrics(ITEMS, responses, json.loads(json.dumps(base))) == metrics(ITEMS, responses, base)


@pytest.mark.parametrize("base", [None, {}, {"verifiable_by_item": {}}])
def test_without_a_base_there_is_no_change(base: dict[str, object] | None) -> None:
    assert "verifiable_change" not in metrics(ITEMS, [said("plain", "a")], base)


def test_an_item_whose_constraints_changed_is_not_paired() -> None:
    base = metrics(ITEMS, [said("both", "a")])
    fewer = [VerifiableItem("both", "No commas.", ITEMS[1].checks[:1])]
    assert "verifiable_change" not in metrics(fewer, [said("both", "a")], base)


def test_no_answers_are_no_metrics() -> None:
    assert metrics(ITEMS, []) == {}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_stores_no_halves_is_told_apart_by_minisheeps_own_items(language: str) -> None:
    items, trained = load_items(language=language), default_trained_kinds()
    said_back = [said(item.id, "- a\n- b") for item in items]
    stored, wanted = metrics(items, said_back), metrics(items, said_back, None, trained)
    found = with_halves(stored, {}, trained, language)
    assert found == wanted and {"verifiable_trained", "verifiable_unseen"} <= set(found) - set(stored)


def test_a_verdict_of_the_base_from_before_own_words_is_left_out_of_the_halves() -> None:
    items, trained = load_items(), default_trained_kinds()
    stored = metrics(items, [said(item.id, "- a\n- b") for item in items])
    verdicts = stored["verifiable_by_item"]
    earlier = {name: verdict for name, verdict in verdicts[items[0].id].items() if name != "own"}
    mixed = {**stored, "verifiable_by_item": {**verdicts, items[0].id: earlier}}
    assert with_halves(mixed, {}, trained, "en")
    found = with_halves(stored, mixed, trained, "en")
    one = with_halves(stored, stored, trained, "en")
    changes = [sum(m[f"verifiable_{half}_change"]["items"] for half in ("trained", "unseen")) for m in (found, one)]
    assert changes[0] < changes[1]


@pytest.mark.parametrize(
    "changed",
    [
        *({name: None} for name in ("strict",)),
        *({name: [True]} for name in ("strict", "loose", "own", "trained")),
        *({name: [True, 1]} for name in ("strict", "own", "trained")),
        {"own": "yes"}, {"ended": []}, {"copied": "no"},
    ],
)  # fmt: skip
def test_verdicts_that_do_not_fit_together_are_damage(changed: dict[str, object]) -> None:
    """Whoever reads a round's metrics may take every reading to be there and as long as the others."""
    found = metrics(ITEMS, [said("plain", "a"), said("both", "a")], None, frozenset({"punctuation:no_comma"}))
    shape = {"verifiable_by_item": typed.METRICS["model!"]["verifiable_by_item"]}
    typed.check(found, shape)
    found["verifiable_by_item"]["both"] |= changed
    with pytest.raises(typed.NotOfShapeError, match=r"both is not verdicts on each constraint"):
        typed.check(found, shape)


@pytest.mark.parametrize("count", [0, 1, 20, 156, 157, 1000])
def test_fewer_items_are_spread_over_the_kinds(count: int) -> None:
    items = load_items()
    found = chosen(items, count)
    assert len(found) == len({item.id for item in found}) == min(count, len(items))
    if count == 20:
        assert len({check.kind for item in found for check in item.checks}) >= 12


def test_a_model_that_learned_to_say_instructions_back_raises_an_alarm() -> None:
    items = [VerifiableItem(f"sun-{i}", f"Name star {i}. Use the word sun.", ITEMS[0].checks) for i in range(20)]
    base = metrics(items, [said(item.id, "It is a small and very distant sun.") for item in items])
    echoes = metrics(items, [said(item.id, item.prompt) for item in items], base)
    alarm = echo(1, echoes)
    assert alarm is not None and "100% of the instructions" in alarm.text and "the base 0%" in alarm.text
    assert echo(0, base) is None
    few = [said(item.id, item.prompt if n == 0 else "It is a small, distant sun.") for n, item in enumerate(items)]
    assert echo(1, metrics(items, few, base)) is None


@pytest.mark.parametrize("model", [{}, {"verifiable": {"ended": {"value": 1.0}}, "verifiable_change": {}}])
def test_what_measured_no_copies_raises_no_alarm(model: dict[str, object]) -> None:
    assert echo(1, model) is None
