"""The stages as pure functions over a scripted engine: what they ask, what they keep, what they measure."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scripted_engine import Scripted

from minisheep import config
from minisheep.config import Keep
from minisheep.data.seed_tasks import SeedTask, load_prompts, load_wording
from minisheep.engines.base import Completion
from minisheep.errors import StarvedError
from minisheep.rules.prompts import Frame
from minisheep.rules.templates import chatml, plain
from minisheep.rules.wording import ENGLISH, Wording
from minisheep.run.records import Asked, Draft, Example, Instruction, Rejection, Response, Verdict
from minisheep.stages.constrain import answers_to_check
from minisheep.stages.evaluate import (
    TaskLikelihood,
    data_metrics,
    greedy_answers,
    held_out,
    likelihoods,
    model_metrics,
)
from minisheep.stages.filter import Candidates, by_rules, by_score, keep_examples
from minisheep.stages.generate import FRUITLESS_DRAFTS, Harvest, draft_request, novelty_index
from minisheep.stages.judge import Pair
from minisheep.stages.respond import LONGEST_SHOWN, Asking, respond
from minisheep.stages.train import train_job

SETTINGS = config.make({})
FRAME = Frame(chatml())


ANSWERS = (
    "A robin sings before dawn.",
    "Boil the pasta for nine minutes.",
    "Venus is hotter than Mercury.",
    "Shake the tin, then spray.",
    "Trains leave every hour.",
    "Paper beats rock.",
    "Call the plumber first.",
    "Wool keeps its warmth.",
)


def pair(number: int) -> Pair:
    instruction = Instruction(1, "draft", number, f"Tell me fact number {number}.", "", 0.1)
    answer = ANSWERS[number % len(ANSWERS)]
    return Pair(instruction, Response(instruction.id, 0, answer, "end", 6), answer)


def judged(scores: Sequence[float | None]) -> tuple[Candidates, dict[str, Verdict]]:
    pairs = [pair(number) for number in range(len(scores))]
    verdicts = {
        p.response.id: Verdict(p.response.id, "logits", score, score, score, {})
        for p, score in zip(pairs, scores, strict=True)
    }
    return Candidates(pairs, {p.response.id: "" for p in pairs}, []), verdicts


# Filter


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.lists(st.none() | st.sampled_from([2.0, 5.5, 8.0, 8.0001, 9.5]), min_size=1, max_size=12))
def test_a_threshold_keeps_what_is_strictly_above_it(scores: list[float | None]) -> None:
    candidates, verdicts = judged(scores)
    above = [score for score in scores if score is not None and score > 8]
    if not above:
        with pytest.raises(StarvedError):
            by_score(candidates, verdicts, Keep("threshold", 8))
        return
    kept, rejected = by_score(candidates, verdicts, Keep("threshold", 8))
    assert [example.score for example in kept] == sorted(above, reverse=True)
    assert len(kept) + len(rejected) == len(scores)
    assert sum(r.rule == "no_score" for r in rejected) == scores.count(None)


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    st.lists(st.none() | st.sampled_from([2.0, 5.5, 8.0]), min_size=1, max_size=12).filter(any),
    st.sampled_from([0.01, 0.25, 0.5, 0.75, 1.0]),
)
def test_a_fraction_keeps_the_best_of_what_has_a_score(scores: list[float | None], share: float) -> None:
    candidates, verdicts = judged(scores)
    known = sorted((score for score in scores if score is not None), reverse=True)
    kept, rejected = by_score(candidates, verdicts, Keep("top", share))
    assert [example.score for example in kept] == known[: max(1, int(len(known) * share + 0.5))]
    assert len(kept) + len(rejected) == len(scores)


def test_ties_are_broken_by_id_and_not_by_order() -> None:
    candidates, verdicts = judged([7.0] * 8)
    kept, _ = by_score(candidates, verdicts, Keep("top", 0.5))
    turned = Candidates(candidates.pairs[::-1], candidates.cuts, [])
    assert by_score(turned, verdicts, Keep("top", 0.5))[0] == kept
    assert [example.parents[1] for example in kept] == sorted(verdicts)[:4]


def test_what_the_rules_dropped_stays_dropped() -> None:
    candidates, verdicts = judged([9.0, 3.0])
    gone = Rejection("filter", "empty", "no text", "parent", 0, "I.", "", "")
    candidates.rejected.append(gone)
    kept, rejected = by_score(candidates, verdicts, Keep("threshold", 8))
    assert len(kept) == 1
    assert [r.rule for r in rejected] == ["empty", "low_score"]
    assert rejected[1].detail == "3 is not above 8"


def test_nothing_kept_says_how_the_scores_lie() -> None:
    candidates, verdicts = judged([2.0, 4.0, 6.0, None])
    with pytest.raises(StarvedError) as starved:
        by_score(candidates, verdicts, Keep("threshold", 8))
    assert all(part in starved.value.message for part in ("--keep threshold:8", "3", "2", "6", "median 4", "mean 4"))
    assert "--keep top:0.5" in starved.value.fix


def test_nothing_left_to_score_says_which_rules_dropped_it() -> None:
    instructions = [pair(number).instruction for number in range(3)]
    texts = ("", "", "Why?\n\nWhat do you think about it?")
    responses = [Response(i.id, 0, text, "end", 0) for i, text in zip(instructions, texts, strict=True)]
    with pytest.raises(StarvedError) as starved:
        keep_examples(config.make({"judge": "logits"}), 1, instructions, by_rules(instructions, responses), [])
    assert "(empty 2, asks_back 1)" in starved.value.message
    assert "--keep" not in starved.value.fix


def test_a_rambling_answer_is_cut_and_the_cut_is_told() -> None:
    instruction = pair(0).instruction
    response = Response(instruction.id, 0, "A robin sings.\n\nInstruction: Name a fish.\nResponse: Cod", "length", 9)
    found = by_rules([instruction], [response])
    assert [p.answer for p in found.pairs] == ["A robin sings."]
    assert found.cuts == {response.id: "new_turn"}
    verdict = Verdict(response.id, "logits", 9, 9, 9, {})
    (example,), _ = by_score(found, {response.id: verdict}, Keep("threshold", 8))
    assert (example.output, example.cut) == ("A robin sings.", "new_turn")
    assert example.parents == (instruction.id, response.id, verdict.id)


def test_an_instruction_without_an_answer_is_left_out() -> None:
    assert by_rules([pair(0).instruction], []) == Candidates([], {}, [])


@pytest.mark.parametrize(
    ("instruction", "text", "wording"),
    [
        ("Write a question and its answer.", "Here they are:\n\nQuestion: Who sings?\nAnswer: A wren.", ENGLISH),
        ("Name a bird.", "A wren.\n\nQuestion: Why?\nIt sings, loudly.", ENGLISH),
        ("说出一种鸟。", "鹪鹩。\n\n用户：谢谢\n不客气，再见。", load_wording("", "zh")),
    ],
)
def test_what_is_checked_is_the_text_that_is_kept(instruction: str, text: str, wording: Wording) -> None:
    made = Instruction(1, "draft", 0, instruction, "", 0.1)
    constraint = {"kind": "punctuation:no_comma", "arguments": {}, "wording": "Do not use any commas."}
    asked = Asked(made.id, f"{instruction} Do not use any commas.", "", constraint, (), "current")
    response = Response(made.id, 0, text, "end", 9, asked.id)
    (found,) = by_rules([made], [response], wording, asked=[asked]).pairs
    assert [kept for *_, kept in answers_to_check([asked], [response], wording)] == [found.answer]


# Generate


def draft(index: int, text: str, finish: str = "stop") -> Draft:
    return Draft(1, index, ("a",), text, finish)


TASK_TEXTS = [
    " Describe the sea at night.\n\n7. Instruction: Name four musical instruments.\nInput: (none)",
    " Explain how a bridge carries weight.\n\n7. Instruction: Describe the sea at night, please.",
    " Draw a picture.\n\n7. Instruction: List three uses for an old newspaper.",
    "",
    " Turn this into a question.\nInput: The shop opens at nine.",
]
SEEDS = [SeedTask("a", "k", "Write a rhyme about snow.", "", "Snow.", False)]


def harvest_of(order: Sequence[int], per_round: int = 50) -> Harvest:
    """As the phase does: drafts arrive in any order and are read by their numbers."""
    harvest = Harvest(config.make({"per_round": per_round}), novelty_index(SEEDS, []))
    ready: dict[int, Draft] = {}
    for index in order:
        ready[index] = draft(index, TASK_TEXTS[index])
        while harvest.drafts in ready and not harvest.full:
            harvest.add(ready[harvest.drafts])
    return harvest


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("per_round", [3, 50])
def test_the_harvest_does_not_depend_on_which_draft_came_first(seed: int, per_round: int) -> None:
    order = list(range(len(TASK_TEXTS)))
    right = harvest_of(order, per_round)
    random.Random(seed).shuffle(order)
    found = harvest_of(order, per_round)
    assert (found.kept, found.rejected, found.drafts) == (right.kept, right.rejected, right.drafts)


def test_every_task_of_a_draft_is_kept_or_dropped_with_a_rule() -> None:
    harvest = harvest_of(range(5))
    assert [i.instruction for i in harvest.kept] == [
        "Describe the sea at night.",
        "Name four musical instruments.",
        "Explain how a bridge carries weight.",
        "List three uses for an old newspaper.",
        "Turn this into a question.",
    ]
    assert [r.rule for r in harvest.rejected] == ["too_similar", "too_short", "no_task"]
    assert harvest.rejected[0].detail.startswith("ROUGE-L 0.9")


def test_a_full_round_takes_no_more() -> None:
    harvest = harvest_of(range(5), per_round=1)
    assert harvest.full and len(harvest.kept) == 1 and not harvest.rejected


def test_an_earlier_round_is_not_repeated() -> None:
    earlier = harvest_of(range(5)).kept
    harvest = Harvest(SETTINGS, novelty_index(SEEDS, earlier))
    kept, rejected = harvest.add(draft(0, TASK_TEXTS[0]))
    assert not kept and [r.rule for r in rejected] == ["too_similar", "too_similar"]


def test_a_held_out_seed_is_not_repeated_either() -> None:
    hidden = SeedTask("h", "k", "Describe the sea at night.", "", "Dark.", True)
    harvest = Harvest(SETTINGS, novelty_index([*SEEDS, hidden], []))
    kept, _ = harvest.add(draft(0, TASK_TEXTS[0]))
    assert [i.instruction for i in kept] == ["Name four musical instruments."]


def test_a_model_that_only_repeats_itself_is_given_up() -> None:
    harvest = Harvest(config.make({"per_round": 2}), novelty_index(SEEDS, []))
    while not harvest.exhausted:
        assert harvest.wanted_drafts() >= 1
        harvest.add(draft(harvest.drafts, " Describe the sea at night."))
    assert harvest.drafts == FRUITLESS_DRAFTS + 4
    assert len(harvest.kept) == 1


def test_a_few_shot_request_follows_from_its_number_and_shows_no_held_out_seed() -> None:
    seeds = [SeedTask(f"s{i}", "k", f"Task {i}.", "", "Out.", i % 3 == 0) for i in range(30)]
    request, shown = draft_request(SETTINGS, FRAME, load_prompts(), seeds, 1, 4)
    again, _ = draft_request(SETTINGS, FRAME, load_prompts(), seeds[::-1], 1, 4)
    other, _ = draft_request(SETTINGS, FRAME, load_prompts(), seeds, 2, 4)
    assert request == again and request.seed != other.seed
    assert len(shown) == 5 and not {f"s{i}" for i in range(0, 30, 3)} & set(shown)


def test_an_answers_seed_follows_from_its_instruction() -> None:
    instructions = [pair(number).instruction for number in range(3)]
    wanted = [(instruction, sample) for instruction in instructions for sample in range(2)]
    answers = {f"{i.id}/{sample}": "Yes." for i, sample in wanted}
    one, two = Scripted(answers), Scripted(answers)
    given_ = {(r.instruction_id, r.sample): r for r in respond(one, Asking(SETTINGS, 1, FRAME, []), wanted)}
    assert given_ == {
        (r.instruction_id, r.sample): r for r in respond(two, Asking(SETTINGS, 1, FRAME, []), wanted[::-1])
    }
    seeds = {r.id: r.seed for r in one.asked}
    assert seeds == {r.id: r.seed for r in two.asked}
    assert len(set(seeds.values())) == len(wanted)


def test_a_base_model_is_shown_answers_if_wanted_and_a_trained_one_never() -> None:
    seeds = [SeedTask(f"s{i}", "k", f"Task {i}.", "", f"Out {i}.", i % 3 == 0) for i in range(30)]
    seeds.append(SeedTask("long", "k", "Task long.", "", "x" * LONGEST_SHOWN, False))
    wanted = [(pair(number).instruction, 0) for number in range(2)]
    answers = {f"{i.id}/0": "Yes." for i, _ in wanted}
    shown = config.make({"answer_shots": 3})
    for settings, frame, count in ((SETTINGS, Frame(None), 0), (shown, Frame(None), 3), (shown, FRAME, 0)):
        engine = Scripted(answers)
        list(respond(engine, Asking(settings, 1, frame, seeds), wanted))
        texts = ["".join(segment.text for segment in request.prompt) for request in engine.asked]
        found = [set(re.findall(r"Task (\w+)\.\nAnswer: Out \1\.\n\n", text)) for text in texts]
        assert found[0] == found[1] and len(found[0]) == count
        assert not found[0] & {"long", *(str(i) for i in range(0, 30, 3))}
        assert all(text.endswith("\nAnswer:") == bool(count) for text in texts)
        assert not count or all(any(stop in text for stop in engine.asked[0].sampling.stop) for text in texts)


# Train


def test_a_job_takes_the_best_examples_and_no_more() -> None:
    examples = [Example(f"I {n}.", "", f"O {n}.", [], 9 - n, None, None, "", ()) for n in range(5)]
    settings = config.make({"max_examples": 2, "batch_size": 2, "micro_batch_size": 8})
    here = Path()
    job = train_job(settings, plain("</s>"), 3, examples, gguf=here, weights=here, output=here, scratch=here)
    assert [e.completion[0].text for e in job.examples] == ["O 0.", "O 1."]
    assert job.settings.micro_batch_size == 2
    assert job.settings.seed != train_job(
        settings, plain("</s>"), 2, examples, gguf=here, weights=here, output=here, scratch=here
    ).settings.seed  # fmt: skip


# Evaluate


def seeds_of(count: int) -> list[SeedTask]:
    return [SeedTask(f"t{i}", f"kind {i // 4}", f"I {i}.", "", f"O {i}.", True) for i in range(count)]


@given(st.integers(1, 60), st.integers(1, 60))
def test_held_out_tasks_are_spread_over_the_file(count: int, wanted: int) -> None:
    seeds = seeds_of(count)
    chosen = [int(seed.id[1:]) for seed in held_out(seeds, wanted)]
    assert len(chosen) == min(count, wanted) == len(set(chosen))
    assert chosen == sorted(chosen)
    gaps = [b - a for a, b in pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_only_held_out_tasks_are_measured() -> None:
    seeds = [SeedTask("shown", "k", "I.", "", "O.", False), *seeds_of(3)]
    assert "shown" not in {seed.id for seed in held_out(seeds, 10)}


def test_a_likelihood_leaves_the_end_token_out() -> None:
    engine = Scripted({"t0": [-1.0, -2.0, -3.0, -0.25]})
    assert list(likelihoods(engine, chatml(), seeds_of(1))) == [TaskLikelihood("t0", 2.0, 3, 0.25)]
    assert engine.asked[0].continuation == chatml().completion("O 0.")


def test_greedy_answers_are_greedy() -> None:
    engine = Scripted({"t0": "A", "t1": "B"})
    assert {a.id for a in greedy_answers(engine, SETTINGS, plain("</s>"), seeds_of(2))} == {"t0", "t1"}
    assert {r.sampling.temperature for r in engine.asked} == {0.0}
    assert engine.asked[0].sampling.stop == plain("</s>").stop


def found(values: Sequence[float]) -> list[TaskLikelihood]:
    return [TaskLikelihood(f"t{i}", value, 3, 0.5) for i, value in enumerate(values)]


def test_the_change_is_paired_by_task() -> None:
    base = model_metrics(found([1.0, 2.0, 4.0]), [], None)
    after = model_metrics(found([0.5, 1.8, 3.0])[::-1], [], base)
    assert "nll_change" not in base
    differences = [-0.5, -0.2, -1.0]
    mean = sum(differences) / 3
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2)
    assert after["nll_change"]["mean"] == pytest.approx(mean, abs=1e-5)
    assert after["nll_change"]["standard_error"] == pytest.approx(deviation / math.sqrt(3), abs=1e-5)
    assert after["nll_change"]["tasks"] == 3


def test_one_task_has_no_measured_change() -> None:
    base = model_metrics(found([1.0]), [], None)
    assert "nll_change" not in model_metrics(found([0.5]), [], base)


def test_answers_are_counted_and_one_word_answers_have_no_pairs_of_words() -> None:
    answers = [Completion("t0", "Yes", "end", 1), Completion("t1", "no no", "length", 2)]
    metrics = model_metrics(found([1.0, 2.0]), answers, None)
    assert (metrics["answers"], metrics["ended"], metrics["answer_words"]) == (2, 0.5, 1.5)
    assert metrics["distinct_1"] == pytest.approx(2 / 3, abs=1e-6)
    silent = model_metrics(found([1.0, 2.0]), [Completion("t0", "", "end", 0)], None)
    assert silent["distinct_1"] is None and silent["distinct_2"] is None


def test_the_funnel_adds_up() -> None:
    harvest = harvest_of(range(5))
    responses = [Response(i.id, 0, "An answer of some words.", "end", 5) for i in harvest.kept]
    verdicts = [Verdict(r.id, "logits", s, s, s, {}) for r, s in zip(responses, (10, 9.5, 3, 8, None), strict=True)]
    pairs = [Pair(i, r, r.text) for i, r in zip(harvest.kept, responses, strict=True)]
    kept, dropped = by_score(
        Candidates(pairs, {r.id: "" for r in responses}, []), {v.response_id: v for v in verdicts}, Keep("threshold", 8)
    )
    metrics = data_metrics(
        [draft(n, text) for n, text in enumerate(TASK_TEXTS)], harvest.kept, responses, verdicts, kept,
        [*harvest.rejected, *dropped],
    )  # fmt: skip
    rules = metrics["dropped_by_rule"]
    assert metrics["kept"] + sum(n for rule, n in rules.items() if rule.startswith("filter.")) == metrics["responses"]
    assert sum(n for rule, n in rules.items() if rule.startswith("generate.")) == len(harvest.rejected)
    assert metrics["keep_rate"] == 0.4
    assert metrics["near_duplicate_rate"] == pytest.approx(1 / 6, abs=1e-6)
    scores = metrics["scores"]
    assert scores["n"] + scores["unreadable"] == metrics["judged"] == 5
    assert sum(scores["histogram"]["counts"]) == 4
    assert scores["saturation"] == 0.5


def test_a_round_of_one_word_answers_can_be_measured() -> None:
    one = pair(0)
    example = Example("I.", "", "Robin", [], 1.0, None, None, "", ())
    verdict = Verdict(one.response.id, "pmi", None, None, 0.3, {})
    metrics = data_metrics([], [one.instruction], [one.response], [verdict], [example], [])
    assert metrics["kept_distinct_2"] is None
    assert metrics["scores"]["saturation"] is None
    assert data_metrics([], [], [], [], [], [])["keep_rate"] == 0
