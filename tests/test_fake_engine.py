from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisheep.engines.base import Engine, GenerateRequest, LoglikRequest, Sampling, ScoreRequest
from minisheep.engines.fake_engine import FakeEngine
from minisheep.rules.templates import Segment

LABELS = tuple(str(n) for n in range(1, 11))
WIDE = Sampling(max_tokens=1000)


def ask(prompt: str, id: str = "a", *, seed: int = 1, sampling: Sampling = WIDE) -> GenerateRequest:
    return GenerateRequest(id, (Segment(prompt),), sampling, seed)


def write(prompt: str, id: str = "a", **more: int) -> str:
    (completion,) = FakeEngine().generate([ask(prompt, id, **more)])
    return completion.text


def test_it_says_that_no_model_runs() -> None:
    engine: Engine = FakeEngine()
    assert engine.info.backend == "fake"
    assert "no model" in engine.info.description


@given(st.text(max_size=30), st.integers(1, 2**32 - 2))
def test_the_same_request_gives_the_same_text(prompt: str, seed: int) -> None:
    assert write(prompt, seed=seed) == write(prompt, seed=seed)


def test_id_seed_prompt_and_adapter_all_matter() -> None:
    engine = FakeEngine()
    requests = [ask("Hi"), ask("Hi", "b"), ask("Hi", seed=2), ask("Ho")]
    base = [c.text for c in engine.generate(requests)]
    assert len(set(base)) == 4
    engine.set_adapter(Path("round-1/adapter.gguf"))
    adapted = [c.text for c in engine.generate(requests)]
    assert adapted != base
    engine.set_adapter(Path("round-2/adapter.gguf"))
    assert [c.text for c in engine.generate(requests)] != adapted
    engine.set_adapter(None)
    assert [c.text for c in engine.generate(requests)] == base


def test_results_come_in_the_order_of_the_requests() -> None:
    assert [c.id for c in FakeEngine().generate([ask("Hi", str(i)) for i in range(9)])] == list("012345678")


@pytest.mark.parametrize(("end", "label"), [("6.", ""), ("6. ", ""), ("6. Instruction:", " Instruction:")])
def test_a_numbered_list_is_continued_and_cut_off(end: str, label: str) -> None:
    text = write(f"5. Old task\n{end}")
    numbers = [int(n) for n in re.findall(rf"^(\d+)\.{label}", text, re.MULTILINE)]
    assert numbers == list(range(7, 7 + len(numbers))) and 3 <= len(numbers) <= 6
    assert not text.rstrip().endswith(".")


def test_thousands_of_different_tasks_arise() -> None:
    lists = FakeEngine().generate([ask("6.", str(i)) for i in range(1000)])
    tasks = {line for found in lists for line in found.text.split("\n") if not line.startswith("Input:")}
    assert len(tasks) > 3000


def test_some_tasks_break_the_rules() -> None:
    text = "".join(c.text for c in FakeEngine().generate([ask("6.", str(i)) for i in range(200)]))
    assert "Draw a picture" in text and "Do it." in text


def test_answers_mostly_end_with_a_full_stop_and_some_are_cut_off() -> None:
    found = list(FakeEngine().generate([ask("Why?", str(i)) for i in range(200)]))
    ends = [c for c in found if c.finish == "end"]
    assert 150 < len(ends) < 200
    assert all(c.text.endswith(".") for c in ends)
    assert {c.finish for c in found} == {"end", "length"}


def test_a_request_for_a_grade_gets_one() -> None:
    assert re.match(r"(\d|10) \|\| ", write("Rate it.\nGrade: "))


def test_a_stop_string_is_cut_off() -> None:
    engine = FakeEngine(reply=lambda request: "one STOP two")
    (found,) = engine.generate([ask("x", sampling=Sampling(stop=("STOP",)))])
    assert (found.text, found.finish) == ("one ", "stop")


def test_the_token_limit_counts_words() -> None:
    engine = FakeEngine(reply=lambda request: "one two three")
    (found,) = engine.generate([ask("x", sampling=Sampling(max_tokens=2))])
    assert (found.text, found.finish, found.tokens) == ("one two", "length", 2)


def test_a_script_can_write_the_replies() -> None:
    engine = FakeEngine(reply=lambda request: request.id * 2)
    assert [(c.text, c.finish) for c in engine.generate([ask("x", "b")])] == [("bb", "end")]


def test_a_delay_is_kept_and_an_early_close_is_fine() -> None:
    start = time.monotonic()
    results = FakeEngine(delay=0.01).generate([ask("x"), ask("y")])
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start >= 0.01


def test_scores_are_a_distribution_with_most_peaks_high() -> None:
    engine = FakeEngine()
    found = list(engine.score([ScoreRequest(str(i), (Segment("Grade: "),), LABELS) for i in range(300)]))
    assert all(0.9 < sum(s.probabilities) < 1 and min(s.probabilities) >= 0 for s in found)
    peaks = [max(range(10), key=s.probabilities.__getitem__) + 1 for s in found]
    assert sum(peak >= 8 for peak in peaks) > 200
    assert min(peaks) < 5


def test_loglik_has_a_negative_number_for_each_word_and_more_after_a_prompt() -> None:
    engine = FakeEngine()
    answer = (Segment("three short words"), Segment("<|im_end|>", special=True))
    given, alone, empty = engine.loglik(
        [LoglikRequest("g", (Segment("Say it"),), answer), LoglikRequest("a", (), answer), LoglikRequest("e", (), ())]
    )
    assert [len(x.logprobs) for x in (given, alone, empty)] == [4, 4, 1]
    assert max(given.logprobs) < 0
    assert sum(given.logprobs) > sum(alone.logprobs)


def test_closing_twice_is_fine() -> None:
    engine = FakeEngine()
    engine.close()
    engine.close()


def test_the_parts_that_are_told_are_the_text() -> None:
    told: dict[str, str] = {}

    def hear(name: str, part: str) -> None:
        told[name] = told.get(name, "") + part

    asked = [GenerateRequest(str(n), (Segment("Name a river."),), Sampling(max_tokens=20), n) for n in range(40)]
    for completion in FakeEngine(reply=lambda request: f"  {request.seed} a\n\nb \n").generate(asked[:2], hear):
        assert told[completion.id] == completion.text
    for completion in FakeEngine().generate(asked[2:], hear):
        assert told[completion.id] == completion.text


def test_what_hears_the_parts_can_end_the_run() -> None:
    def enough(name: str, part: str) -> None:
        raise InterruptedError

    engine = FakeEngine()
    asked = [GenerateRequest("1", (Segment("Name a river."),), Sampling())]
    with pytest.raises(InterruptedError):
        list(engine.generate(asked, enough))
    assert len(list(engine.generate(asked))) == 1
