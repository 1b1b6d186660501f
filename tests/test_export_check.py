"""What an export must show: each fault that is not seen otherwise fails its own check, an honest tiny model none."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from scripted_engine import Scripted

from minisheep.engines.base import Loglik
from minisheep.export import export_checks
from minisheep.export.export_checks import LIMITS, ComparedPrompt
from minisheep.formats.quantise import FORMATS
from minisheep.rules.templates import Segment, chatml
from minisheep.run.events import PhaseStarted, Progress
from minisheep.run.time_left import Course, Outlook, follow, time_left

GOOD = ComparedPrompt(tokens=50, run_nll=40.0, export_nll=40.2, run_ended=True, export_ended=True, same_begin=True)


def piece(token: int) -> bytes:
    return {1: b" ", 2: b"Say", 3: b" Say", 4: b"it", 5: b"Sayit"}.get(token, b"%d" % token)


def asked(count: int = 20, **changes: object) -> list[ComparedPrompt]:
    return [dataclasses.replace(GOOD, **changes) for _ in range(count)]  # type: ignore[arg-type]


def test_the_same_token_ids_pass() -> None:
    found = export_checks.prompts([([7, 1, 2], [7, 1, 2])] * 20, words=False, piece=piece)
    assert found.passed and "20 of 20" in found.text


def test_one_other_token_fails() -> None:
    assert not export_checks.prompts([([7, 2], [7, 2])] * 19 + [([7, 2], [7, 4])], words=False, piece=piece).passed


def test_words_joined_at_a_seam_pass_for_a_frame_of_words_alone() -> None:
    pairs = [([7, 8, 1, 2, 9], [7, 8, 3, 9])]
    assert not export_checks.prompts(pairs, words=False, piece=piece).passed
    found = export_checks.prompts(pairs, words=True, piece=piece)
    assert found.passed and "1 " in found.text


@pytest.mark.parametrize("export", [[7, 8, 3, 4, 9], [7, 8, 3]])
def test_another_text_fails_for_a_frame_of_words_too(export: list[int]) -> None:
    assert not export_checks.prompts([([7, 8, 1, 2, 9], export)], words=True, piece=piece).passed


def test_the_same_text_cut_otherwise_all_over_fails() -> None:
    run, export = [1, 2, 7] * 3, [3, 7] * 3
    assert not export_checks.prompts([(run, export)], words=True, piece=piece).passed


def test_the_time_left_of_a_check_is_not_told_by_the_first_of_a_batch() -> None:
    """Twenty answers of which sixteen are written at once: the first one done says nothing of the others."""
    engine = Scripted({str(place): "yes" for place in range(20)})
    engine.running = 16
    course = follow(Course(), PhaseStarted(1, "check", unit="steps"), 0.0)
    known = []

    def on_progress(done: int, total: int, running: int) -> None:
        nonlocal course
        course = follow(course, Progress(1, "check", done, total, running=running), float(done))
        known.append(time_left(course, Outlook(), float(done)).phase is not None)

    prompts = [(Segment("Say yes", False),)] * 20
    export_checks._generate(engine, prompts, chatml(), 8, on_progress)  # type: ignore[arg-type]
    assert known == [False] * 15 + [True] * 5


def test_the_likelihoods_that_follow_the_answers_are_progress_too() -> None:
    engine = SimpleNamespace(running=0, loglik=lambda asked: [Loglik(one.id, (-1.0,)) for one in asked])
    told: list[tuple[int, int]] = []
    prompts = [(Segment("Say yes", False),)] * 3
    found = export_checks._nlls(engine, prompts, prompts, lambda *now: told.append(now[:2]))  # type: ignore[arg-type]
    assert found == [1.0] * 3 and told == [(4, 6), (5, 6), (6, 6)]


def test_no_prompts_prove_nothing() -> None:
    assert not export_checks.prompts([], words=False, piece=piece).passed


@pytest.mark.parametrize(("tokens", "known", "passed"), [([2], True, True), ([2], False, False), ([3, 4], True, False)])
def test_the_end_must_be_one_token_that_ends(tokens: list[int], known: bool, passed: bool) -> None:
    assert export_checks.end(tokens, known, "<|im_end|>").passed is passed


def test_a_merge_that_is_off_by_the_adapter_itself_fails() -> None:
    assert export_checks.merge({"a": 0.01, "b": 0.02}).passed
    lost = export_checks.merge({"a": 0.01, "b": 1.0})
    assert not lost.passed and "100.0 %" in lost.text
    assert not export_checks.merge({}).passed


def test_every_format_that_can_be_made_has_its_limit() -> None:
    assert set(LIMITS) == set(FORMATS)


def test_a_narrower_format_may_lose_more() -> None:
    by_width = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M"]
    limits = [LIMITS[name] for name in by_width]
    assert [limit.nll for limit in limits] == sorted(limit.nll for limit in limits)
    assert [limit.begins for limit in limits] == sorted((limit.begins for limit in limits), reverse=True)


def test_of_two_formats_the_wider_loss_counts() -> None:
    assert export_checks.widest("BF16", "Q4_K_M") == "Q4_K_M" and export_checks.widest("BF16") == "BF16"
    assert export_checks.widest("F16", "IQ2_XS") == "Q3_K_M"


def test_less_likely_answers_fail_by_the_limit_of_the_format() -> None:
    worse = asked(export_nll=40.0 + 50 * 0.06)
    assert not export_checks.agreement(worse, "F16").passed
    assert export_checks.agreement(worse, "Q4_K_M").passed
    assert export_checks.agreement(asked(export_nll=30.0), "F16").passed


def test_answers_that_begin_otherwise_fail() -> None:
    assert not export_checks.agreement(asked(20, same_begin=False), "Q3_K_M").passed


def test_a_run_that_answered_nothing_agrees_with_nobody() -> None:
    assert not export_checks.agreement(asked(tokens=0), "F16").passed


def test_answers_that_no_longer_end_fail() -> None:
    assert export_checks.ends(asked()).passed
    assert not export_checks.ends(asked(export_ended=False)).passed
    assert not export_checks.ends(asked(18) + asked(2, export_ended=False)).passed
    assert export_checks.ends(asked(19) + asked(1, export_ended=False)).passed


def test_answers_that_the_run_did_not_end_are_not_held_against_the_export() -> None:
    found = export_checks.ends(asked(15, run_ended=False, export_ended=False) + asked(5))
    assert found.passed and found.text.startswith("5 of")


def test_of_a_single_ended_answer_nothing_is_concluded() -> None:
    found = export_checks.ends(asked(19, run_ended=False) + asked(1, export_ended=False))
    assert found.passed and found.text
