"""The exam: who sits it, on what, what is asked, and who may grade."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

import pytest

from minisheep import config
from minisheep.config import Settings
from minisheep.data.seed_tasks import SeedTask, load_prompts, load_seeds
from minisheep.engines.base import GenerateRequest, Loglik, LoglikRequest, ScoreRequest, Scores
from minisheep.engines.fake_engine import FakeEngine, text_of
from minisheep.errors import ExamError
from minisheep.rules.corrupt import KINDS
from minisheep.rules.prompts import Frame
from minisheep.rules.templates import chatml
from minisheep.stages.exam import CANDIDATES, Exam, exam_error, examine, failed_warning, judge_for

SEEDS = load_seeds()
FRAME = Frame(chatml())


class Watched(FakeEngine):
    """Remembers what it was asked; `likes` may say how likely it finds a text."""

    def __init__(self, likes: Callable[[LoglikRequest, Loglik], Loglik] = lambda request, found: found) -> None:
        super().__init__(reply=lambda request: "7")
        self.likes = likes
        self.logliks: list[Sequence[LoglikRequest]] = []
        self.scores: list[Sequence[ScoreRequest]] = []
        self.texts: list[Sequence[GenerateRequest]] = []

    def loglik(self, requests: Sequence[LoglikRequest]) -> Iterator[Loglik]:
        self.logliks.append(requests)
        for request, found in zip(requests, super().loglik(requests), strict=True):
            yield self.likes(request, found)

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scores]:
        self.scores.append(requests)
        return super().score(requests)

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[object]:  # type: ignore[override]
        self.texts.append(requests)
        return super().generate(requests)


def loves_echoes(request: LoglikRequest, found: Loglik) -> Loglik:
    """Every word that the prompt holds is nearly certain, and so is every word that was said before."""
    known = set(text_of(request.prompt).split())
    logprobs = []
    for word in text_of(request.continuation).split():
        logprobs.append(-0.01 if word in known else -3.0)
        known.add(word)
    return Loglik(request.id, (*logprobs, *found.logprobs[len(logprobs) :]))


def sit(engine: FakeEngine, round: int = 1, seeds: Sequence[SeedTask] = SEEDS, **given: object) -> Exam:
    return examine(engine, settings(**given), FRAME, load_prompts(), round, seeds)


def settings(**given: object) -> Settings:
    return config.make(given)


def tasks_of(requests: Sequence[LoglikRequest]) -> set[str]:
    return {request.id.split("/")[0] for request in requests}


def asked_of(engine: Watched) -> list[LoglikRequest]:
    return [request for some in engine.logliks for request in some]


@pytest.fixture(scope="module")
def exam() -> Exam:
    return sit(FakeEngine())


@pytest.mark.parametrize("round", [1, 2, 3])
def test_the_fake_engine_passes_by_its_evidence(round: int) -> None:
    found = sit(FakeEngine(), round)
    assert found.passed and found.chosen != "logits"
    assert set(found.judges) == set(CANDIDATES)
    assert found.auc > 0.8 and not found.judges["logits"].passes


def test_an_exam_is_the_same_again_whatever_the_order_of_the_seeds(exam: Exam) -> None:
    assert sit(FakeEngine(), seeds=SEEDS[::-1]).to_dict() == exam.to_dict()


def test_half_of_the_tasks_are_marked_with_every_kind(exam: Exam) -> None:
    assert (exam.tasks, exam.right) == (40, 20)
    assert set(exam.spoiled) == set(KINDS)
    assert all(10 <= count <= 20 for count in exam.spoiled.values())


def test_a_stored_exam_is_the_same(exam: Exam) -> None:
    assert Exam.from_dict(json.loads(json.dumps(exam.to_dict()))) == exam
    with pytest.raises(KeyError, match="backward"):
        Exam.from_dict(exam.to_dict() | {"chosen": "backward", "judges": {"blend": exam.to_dict()["judges"]["blend"]}})


def test_the_file_says_who_was_chosen_and_how_all_did(exam: Exam) -> None:
    data = exam.to_dict()
    assert data["judges"][data["chosen"]]["passes"] is True is data["passed"]
    assert set(data["judges"]["pmi"]["kinds"]) == set(KINDS)
    assert "blend" in data["why"]


def test_no_held_out_task_is_used_and_each_round_has_its_own() -> None:
    asked = []
    for round in (1, 2):
        engine = Watched()
        sit(engine, round)
        asked.append(tasks_of(asked_of(engine)))
    held_out = {seed.id for seed in SEEDS if seed.held_out}
    assert not (asked[0] | asked[1]) & held_out
    assert asked[0] != asked[1] and len(asked[0]) == len(asked[1]) == 40


def test_grades_are_asked_at_once_and_nothing_is_asked_twice() -> None:
    engine = Watched()
    sit(engine)
    assert (len(engine.scores), len(engine.texts)) == (1, 0)
    texts = [(request.prompt, request.continuation) for request in asked_of(engine)]
    prompts = [request.prompt for request in engine.scores[0]]
    assert len(set(texts)) == len(texts) and len(set(prompts)) == len(prompts)


def test_progress_counts_up_to_all() -> None:
    said: list[tuple[int, int]] = []
    examine(FakeEngine(), settings(), FRAME, load_prompts(), 1, SEEDS, lambda done, total: said.append((done, total)))
    (total,) = {total for _, total in said}
    assert [done for done, _ in said] == list(range(1, total + 1))


@pytest.mark.parametrize(("name", "sides"), [("pmi", {"given", "alone"}), ("logits", set()), ("sample", set())])
def test_a_named_judge_sits_alone_and_only_what_it_needs_is_asked(name: str, sides: set[str]) -> None:
    engine = Watched()
    found = sit(engine, judge=name)
    assert list(found.judges) == [found.chosen] == [name] and found.blend is None
    assert {request.id.rpartition("/")[2] for request in asked_of(engine)} == sides
    assert (len(engine.scores), len(engine.texts)) == (int(name == "logits"), int(name == "sample"))
    assert len(tasks_of(asked_of(engine))) == (20 if sides else 0)


def test_the_blend_is_not_fitted_on_what_it_is_marked_on(exam: Exam) -> None:
    engine = Watched()
    sit(engine, judge="pmi")
    marked = tasks_of(asked_of(engine))

    def garbage(request: LoglikRequest, found: Loglik) -> Loglik:
        return Loglik(request.id, (-9.0,) * len(found.logprobs)) if request.id.split("/")[0] in marked else found

    spoiled = sit(Watched(garbage))
    assert spoiled.blend == exam.blend
    assert spoiled.judges["blend"] != exam.judges["blend"]


def test_a_judge_that_loves_echoes_is_caught_and_the_blend_sees_them() -> None:
    found = sit(Watched(loves_echoes))
    pmi, blend = found.judges["pmi"], found.judges["blend"]
    assert pmi.kinds["copied"] < 0.1 and not pmi.passes
    assert blend.kinds["copied"] > 0.9 and blend.kinds["looped"] > 0.9
    assert found.chosen == "blend"


def test_a_judge_that_cannot_tell_fails_and_is_still_named() -> None:
    found = sit(FakeEngine(), judge="logits")
    assert not found.passed
    assert found.chosen == "logits"
    assert "logits" in failed_warning(found)


def test_a_judge_whose_replies_hold_no_grade_is_a_coin() -> None:
    found = sit(FakeEngine(reply=lambda request: "fine"), judge="sample")
    assert found.auc == 0.5 and not found.passed


def test_where_none_passes_the_error_says_how_they_did_and_what_to_type() -> None:
    found = sit(FakeEngine(), exam_auc=1.0, exam_kind=1.0)
    assert not found.passed
    error = exam_error(found)
    assert all(name in error.message for name in CANDIDATES)
    assert "--force" in error.fix and "--judge NAME" in error.fix and found.chosen in error.fix


@pytest.mark.parametrize(("judge", "needed"), [("auto", 8), ("pmi", 4)])
def test_too_few_seed_tasks_are_named(judge: str, needed: int) -> None:
    shown = [seed for seed in SEEDS if not seed.held_out]
    long = SeedTask("long", "k", "I.", "", "word " * 999, False)
    assert sit(FakeEngine(), seeds=shown[:needed], judge=judge).tasks == needed
    with pytest.raises(ExamError, match=f"{needed - 1}") as refused:
        sit(FakeEngine(), seeds=[*shown[: needed - 1], long], judge=judge)
    assert "--exam-tasks 0" in refused.value.fix


def test_the_judge_of_a_round_is_the_exams_choice_or_the_named_one(exam: Exam) -> None:
    chosen = judge_for(settings(seed=7, assess="quality"), 3, exam)
    assert (chosen.name, chosen.blend) == (exam.chosen, exam.blend if exam.chosen == "blend" else None)
    assert (chosen.criteria, chosen.seed, chosen.round) == (("quality",), 7, 3)
    named = judge_for(settings(judge="logits", judge_prompt="icl"), 1, None)
    assert (named.name, named.prompt, named.criteria, named.blend) == ("logits", "icl", ("quality", "following"), None)
