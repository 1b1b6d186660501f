"""What a run came to: the sentence that everything begins with, the short table, and the answers beside each other."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from measured_runs import measured_run
from rich.cells import cell_len

from minisheep import api
from minisheep.data.constraint_kinds import default_trained_kinds
from minisheep.run import verdict
from minisheep.run.decision import decide
from minisheep.terminal import run_summary

KINDS = ("trained", "unseen")


def model(trained: float, unseen: float, nll: float = 2.5, ended: float = 0.5, words: float = 30.0) -> dict[str, Any]:
    """Metrics of a model that keeps such shares of the constraints of both halves, by the same lot for each model."""
    chance = random.Random(5)
    lots = [(chance.random(), chance.random(), chance.random()) for _ in range(80)]
    by_item = {}
    for number, (first, second, end) in enumerate(lots):
        kept = [first < trained, second < unseen]
        by_item[f"item-{number:02}"] = {
            "strict": kept, "loose": kept, "own": kept, "ended": end < ended, "copied": False, "trained": [True, False],
        }  # fmt: skip

    def share(values: list[bool]) -> dict[str, float]:
        return {"value": sum(values) / len(values)}

    rows = list(by_item.values())
    return {
        "verifiable_by_item": by_item,
        "verifiable": {
            "instruction_own": share([v for row in rows for v in row["own"]]),
            "ended": share([row["ended"] for row in rows]),
            "copied": {"value": 0.0},
        },
        **{
            f"verifiable_{half}": {"instruction_own": share([row["own"][place] for row in rows])}
            for place, half in enumerate(KINDS)
        },
        "nll_by_task": {f"task-{i}": nll + i / 50 for i in range(30)},
        "held_out_nll": nll,
        "answer_words": words,
    }


def run(*models: dict[str, Any], halves: bool = True) -> list[dict[str, Any]]:
    measured: dict[int, dict[str, Any]] = {}
    for number, found in enumerate(models):
        measured[number] = {"round": number, "model": found, "decision": decide(number, found, measured, halves=halves)}
    return list(measured.values())


BASE = model(0.2, 0.3)


def said(*models: dict[str, Any], halves: bool = True) -> str:
    return verdict.sentence(verdict.conclude(run(*models, halves=halves)))


def test_a_gain_is_named_with_its_levels_what_did_not_change_and_the_length_of_answers() -> None:
    text = said(BASE, model(0.6, 0.3, ended=0.5, words=22.0))
    assert text.startswith("Use round 1: it is better than the base model in following trained kinds of constraint (")
    assert "no clear change in following unseen kinds of constraint, " in text
    assert "its answers have 22 words, those of the base 30" in text


def test_trained_kinds_at_the_price_of_the_others_are_no_gain() -> None:
    """Counted together they would be: a model that learns its own kinds alone is what halves are there to find."""
    learned = model(0.9, 0.05)
    assert run(BASE, learned, halves=False)[1]["decision"]["outcome"] == "gain"
    decision = run(BASE, learned)[1]["decision"]
    assert (decision["outcome"], decision["best"]) == ("mixed", 0)
    assert {"constraints_trained", "constraints_unseen"} <= set(decision["measures"])
    assert "constraints" not in decision["measures"]
    text = said(BASE, learned)
    assert text.startswith("Use the base model: round 1 is better") and "but worse in following unseen kinds" in text


def test_a_loss_and_no_change_are_said_in_as_plain_words() -> None:
    assert said(BASE, model(0.2, 0.3, nll=2.9)).startswith(
        "Use the base model: round 1 is worse than the base model in"
    )
    assert "round 1 shows no clear change from the base model in" in said(BASE, BASE)
    assert "that cannot" not in said(BASE) and "No round has been measured" in said(BASE)


def test_the_round_to_use_is_held_against_the_base_and_later_rounds_are_named() -> None:
    metrics = run(BASE, model(0.6, 0.3), model(0.6, 0.3), model(0.5, 0.3))
    found = verdict.conclude(metrics)
    assert found is not None and (found.round, found.best, found.later) == (1, 1, 2)
    assert "the 2 rounds measured after it were no better" in verdict.sentence(found)
    third = verdict.conclude(metrics, 3)
    assert third is not None and verdict.round_sentence(third).startswith("Round 3 is better than the base model")


def test_a_run_of_a_version_without_halves_is_told_too() -> None:
    metrics = run(BASE, model(0.6, 0.3), halves=False)
    for m in metrics:
        m["model"].pop("verifiable_trained"), m["model"].pop("verifiable_unseen")
        for v in m["model"]["verifiable_by_item"].values():
            v.pop("trained", None)
    assert "better than the base model in following constraints (" in verdict.sentence(verdict.conclude(metrics))


@settings(max_examples=6, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(1, 4)), min_size=1, max_size=2))
def test_the_sentence_never_contradicts_the_runs_decision(rounds: list[tuple[float, float, float]]) -> None:
    metrics = run(BASE, *(model(a, b, nll) for a, b, nll in rounds))
    best = metrics[-1]["decision"]["best"]
    text = verdict.sentence(verdict.conclude(metrics))
    assert text.startswith("Use the base model: " if best == 0 else f"Use round {best}: ")
    assert text.endswith(".") and text.count(". ") == 0


def test_the_table_has_at_most_six_rows_and_up_is_better_in_each() -> None:
    metrics = run(BASE, model(0.6, 0.3, nll=2.0), model(0.5, 0.3), model(0.6, 0.3), model(0.6, 0.3, nll=1.9))
    titles, rows = verdict.short_table(verdict.conclude(metrics), metrics)
    assert len(rows) <= 6 and all(len(row) == len(titles) for row in rows)
    assert [row[0] for row in rows if row[0].endswith(verdict.DECIDES)] == [
        f"{verdict.ROWS[name][0]} {verdict.DECIDES}"
        for name in ("constraints_trained", "constraints_unseen", "likelihood", "ended")
    ]
    likelihood = next(row for row in rows if row[0].startswith("likelihood"))
    assert float(likelihood[1]) < float(likelihood[-2]) and "better" in likelihood[-1]
    assert sum("best" in title for title in titles) == 1 and len(titles) == 2 + 1 + verdict.MOST_ROUNDS


def rows(count: int, key: str, text: str) -> list[dict[str, Any]]:
    return [
        {key: f"item-{n:02}", "prompt": f"Ask {n}.", "instruction": f"Do {n}.", "input": "", "answer": f"{text} {n}"}
        for n in range(count)
    ]


def test_answers_are_chosen_without_a_look_at_them() -> None:
    """The same three whichever of the two models is the better: exchanging them exchanges the answers and no more."""
    first, second = model(0.2, 0.3), model(0.7, 0.3)
    plain = rows(5, "task", "plain"), rows(5, "task", "late")
    checked = rows(80, "item", "old"), rows(80, "item", "new")
    there = verdict.before_after(plain, checked, (first, second))
    back = verdict.before_after(plain[::-1], checked[::-1], (second, first))
    assert [(e.prompt, e.base, e.round) for e in there] == [(e.prompt, e.round, e.base) for e in back]
    assert [e.prompt for e in there[:2]] == ["Do 0.", "Ask 40."]
    before, after = (int(word) for word in there[2].note.split() if word.isdigit() and word != "2")
    assert before != after


def test_what_is_missing_is_replaced_by_the_next_of_its_kind() -> None:
    same = model(0.5, 0.5)
    checked = rows(80, "item", "old"), rows(80, "item", "new")
    assert [e.prompt for e in verdict.before_after(([], []), checked, (same, same))] == ["Ask 40.", "Ask 41."]
    assert verdict.before_after(([], []), ([], []), (same, same)) == []


def test_no_line_is_wider_than_the_terminal(tmp_path: Path) -> None:
    made = measured_run(tmp_path / "run", [0.2, 0.8, 0.7], answers=["wide \U0001f411 " * 40, "short", ""])
    metrics = made.metrics
    found = verdict.conclude(metrics)
    for width in (40, 60, 80, 100, 200):
        table = run_summary.numbers(found, metrics, width)
        text = [*run_summary.sentence(found, width), *run_summary.before_after(made, found, width)]
        assert table and len(text) > 10
        # A column that is wider than the terminal stays whole.
        assert max(map(cell_len, [*text, *(table if width >= 60 else [])])) <= width


def counted(**kinds: tuple[int, int]) -> dict[str, Any]:
    found = {kind: {"draws": d, "passed": p, "instructions": 1, "kept": 1} for kind, (d, p) in kinds.items()}
    return {**found, "total": {"draws": 99, "passed": 9, "instructions": 9, "kept": 9, "hindsight": 1}}


def test_the_learning_curve_counts_kinds_and_no_total_twice(tmp_path: Path) -> None:
    metrics = [
        {"round": 0, "model": {}},
        {"round": 1, "model": {}, "data": {"constraints": counted(title=(10, 2), mine=(4, 4))}},
        {"round": 2, "model": {}, "data": {"constraints": counted(title=(10, 6))}},
    ]
    found = verdict.curve(metrics)
    assert found == {"title": {1: (10, 2), 2: (10, 6)}, "mine": {1: (4, 4)}}
    assert verdict.curve_totals(found) == {1: (14, 6), 2: (10, 6)}
    lines = run_summary.curve(metrics, 80)
    assert "43 % of 14" in lines[1] and "60 % of 10" in lines[1] and run_summary.curve(metrics[:1], 80) == []
    assert json.dumps(lines).count("total") == 0


def test_kinds_of_constraint_have_plain_names_and_plug_ins_their_own(tmp_path: Path) -> None:
    kinds = {"punctuation:no_comma": (10, 6), "mine:haiku": (4, 1)}
    lines = run_summary.curve([{"round": 1, "model": {}, "data": {"constraints": counted(**kinds)}}], 80)
    assert [line.split("  ")[0] for line in lines[2:]] == ["no comma", "mine:haiku"]


def test_the_demo_ends_with_a_verdict_on_both_halves_and_a_learning_curve(tmp_path: Path) -> None:
    """The preset of `make demo` on the fakes: all that its end shows is there, whatever the made-up numbers say."""
    small = {"engine": "fake", "trainer": "fake", "per_round": 8, "eval_tasks": 6, "eval_answers": 3}
    done = api.align(tmp_path / "run", preset="demo", inline=True, **small)
    settings, metrics = done.settings, done.metrics
    assert (settings.model, settings.rounds, settings.judges) == ("gemma-3-270m", 2, False)
    decided = metrics[1]["decision"]["measures"]
    assert {"constraints_trained", "constraints_unseen"} <= set(decided) and "constraints" not in decided
    curve = verdict.curve(metrics)
    assert set(curve) <= default_trained_kinds() and {r for by_round in curve.values() for r in by_round} == {1, 2}
    drawn = sum(draws for draws, _ in verdict.curve_totals(curve).values())
    assert drawn == sum(m["data"]["constraints"]["total"]["draws"] for m in metrics[1:])
    found = verdict.conclude(metrics)
    assert found is not None and len(run_summary.examples(done, found)) == 3
    assert done.verdict == verdict.sentence(found)
    assert verdict.ROWS["constraints_unseen"][0] in "\n".join(run_summary.numbers(found, metrics, 80))
