"""Pairs of answers for a preference loss: which are made, what a run does with them, and seed tasks mixed in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import TINY, minisheep, outcome, tiny_run

from minisheep import api, config, loop
from minisheep.data.seed_tasks import load_seeds, load_wording
from minisheep.errors import ConfigError, RunMismatchError
from minisheep.pairing import read_pairs
from minisheep.phase_times import round_work
from minisheep.prepare import fake_model
from minisheep.rules.data_settings import loss_contradictions
from minisheep.rules.templates import chatml
from minisheep.rules.wording import ENGLISH, Wording
from minisheep.run.events import Event, Note
from minisheep.run.folder import RunFolder, read_records
from minisheep.run.records import Asked, Check, Example, Instruction, PreferencePair, Response, Verdict
from minisheep.stages import filter as filtering
from minisheep.stages.judge import Pair
from minisheep.stages.pairs import REASONS, alike, preference_pairs
from minisheep.stages.train import train_job

TEN = "one two three four five six seven eight nine ten"
TASK = Instruction(1, "draft", 0, "Count up.", "to ten", 0.1)


def answers(*texts: str, finish: str = "end") -> list[Pair]:
    return [Pair(TASK, Response(TASK.id, n, text, finish, len(text.split())), text) for n, text in enumerate(texts)]


def kept(pair: Pair) -> Example:
    return Example(
        TASK.instruction, TASK.input, pair.answer,
        [{"role": "user", "content": "Count up.\nto ten"}, {"role": "assistant", "content": pair.answer}],
        1.0, None, None, "", (TASK.id, pair.response.id),
    )  # fmt: skip


def judged(pairs: list[Pair], *scores: float | None) -> dict[str, Verdict]:
    return {
        pair.response.id: Verdict(pair.response.id, "pmi", None, None, score, {})
        for pair, score in zip(pairs, scores, strict=True)
    }


def settings(**given: Any) -> config.Settings:
    return config.make({"loss": "dpo", "answers": 4, "constraints": 0.5, **given})


def test_a_passing_answer_is_preferred_to_a_failing_one_of_its_length() -> None:
    made = answers(TEN, TEN.upper(), "far too short", TEN.title())
    passed = {pair.response.id: n == 0 for n, pair in enumerate(made)}
    (pair,), missed = preference_pairs(settings(), [kept(made[0])], made, judged(made, 4, 3, 1, 2), passed)
    assert pair.by == "checked" and not missed
    # The lowest scored is too short, the next is not.
    assert pair.rejected == [{"role": "assistant", "content": TEN.title()}]
    assert pair.chosen == [{"role": "assistant", "content": TEN}]
    assert pair.prompt == [{"role": "user", "content": "Count up.\nto ten"}]
    assert pair.parents == (kept(made[0]).id, made[0].response.id, made[3].response.id)
    assert PreferencePair.from_dict(json.loads(json.dumps(pair.to_dict()))) == pair


def test_without_a_judge_a_failing_answer_is_found_too() -> None:
    made = answers(TEN, TEN.upper())
    passed = {made[0].response.id: True, made[1].response.id: False}
    (pair,), _ = preference_pairs(settings(), [kept(made[0])], made, {}, passed)
    assert pair.rejected[0]["content"] == TEN.upper()


def test_a_plain_answer_is_in_no_checked_pair() -> None:
    made = answers(TEN, TEN.upper())
    assert preference_pairs(settings(), [kept(made[0])], made, judged(made, 2, 1), {}) == ([], {"unchecked": 1})


def test_the_judge_prefers_its_best_to_its_worst() -> None:
    made = answers(TEN, TEN.upper(), TEN.title(), TEN + " eleven")
    verdicts = judged(made, 9, 5, None, 6)
    (pair,), _ = preference_pairs(settings(prefer="judged"), [kept(made[0])], made, verdicts, {})
    assert (pair.by, pair.rejected[0]["content"]) == ("judged", TEN.upper())


def test_equal_scores_are_no_preference_and_unlike_lengths_no_pair() -> None:
    made = answers(TEN, TEN.upper())
    asked = settings(prefer="judged")
    assert preference_pairs(asked, [kept(made[0])], made, judged(made, 9, 9), {})[1] == {"none_worse": 1}
    made = answers(TEN, "one two three")
    assert preference_pairs(asked, [kept(made[0])], made, judged(made, 9, 1), {})[1] == {"length": 1}
    assert set(REASONS) >= {"none_worse", "length"}


@pytest.mark.parametrize(("words", "fits"), [(7, True), (6, False), (14, True), (15, False), (0, False)])
def test_lengths_may_differ_by_three_tenths_of_the_longer(words: int, fits: bool) -> None:
    assert alike(TEN, " ".join(["word"] * words)) is fits is alike(" ".join(["word"] * words), TEN)


@pytest.mark.parametrize(
    ("finish", "text", "ended"),
    [("end", TEN.upper(), True), ("length", TEN.upper(), False), ("length", "A b. C d e f g h i. J", False)],
)
def test_an_unshown_answer_that_was_cut_off_has_no_end(finish: str, text: str, ended: bool) -> None:
    made = answers(TEN)
    unshown = [Response(TASK.id, 0, text, finish, 10)]
    asked = settings(prefer="shown", answer_shots=4)
    (pair,), _ = preference_pairs(asked, [kept(made[0])], made, {}, {}, unshown)
    assert pair.rejected_ended is ended
    job = train_job(
        asked, chatml(), 1, [kept(made[0])], gguf=Path(), weights=Path(), output=Path(), scratch=Path(),
        pairs={pair.parents[0]: pair},
    )  # fmt: skip
    rejected = job.examples[0].rejected
    assert rejected is not None and (rejected[-1].text == chatml().end) is ended


@pytest.mark.parametrize(
    ("rules", "language", "turn", "cut"),
    [("on", "en", "User: go", True), ("on", "zh", "用户：去", True), ("on", "en", "用户：去", False),
     ("paper", "en", "User: go", False)],
)  # fmt: skip
def test_an_unshown_answer_is_cut_where_a_kept_one_of_the_run_would_be(
    rules: str, language: str, turn: str, cut: bool
) -> None:
    made, text = answers(TEN), f"{TEN.upper()}\n{turn}"
    unshown = [Response(TASK.id, 0, text, "end", 10)]
    asked = settings(prefer="shown", answer_shots=4, rules=rules, constraints=0.0)
    (pair,), _ = preference_pairs(asked, [kept(made[0])], made, {}, {}, unshown, load_wording(language=language))
    assert pair.rejected[0]["content"] == (TEN.upper() if cut else text)


def test_an_unshown_answer_that_says_the_same_is_no_pair() -> None:
    made = answers(TEN)
    for unshown in ([Response(TASK.id, 0, TEN, "end", 10)], [Response(TASK.id, 0, "  ", "end", 1)], []):
        found = preference_pairs(settings(prefer="shown", answer_shots=4), [kept(made[0])], made, {}, {}, unshown)
        assert found == ([], {"none_unshown": 1})


@pytest.mark.parametrize(
    ("rules", "wording", "added", "stays"),
    [
        ("on", load_wording("", "zh"), "\n用户：谢谢", ""),
        ("paper", ENGLISH, "\nUser: hi", "\nUser: hi"),
        ("on", ENGLISH, "\nInput: 3", "\nInput: 3"),
    ],
)
def test_an_unshown_answer_is_cut_as_kept_ones_are(rules: str, wording: Wording, added: str, stays: str) -> None:
    """By the words of the run's language, by its rules, and with the labels that the instruction asks for."""
    put = Asked(TASK.id, "Count up, then say the input.", "to ten", {}, (), "current")
    made = [replace(pair, asked=put) for pair in answers(TEN)]
    chosen = settings(prefer="shown", answer_shots=4, constraints=0.0, rules=rules)
    unshown = [Response(TASK.id, 0, TEN.upper() + added, "end", 10)]
    (found,), _ = preference_pairs(chosen, [kept(made[0])], made, {}, {}, unshown, wording)
    assert found.rejected[0]["content"] == TEN.upper() + stays


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"loss": "dpo", "constraints": 0.5, "answers": 2, "strategy": "one-last"}, "--strategy one-last"),
        ({"loss": "dpo", "constraints": 0.5}, "--answers 2"),
        ({"loss": "dpo", "answers": 2}, "--constraints 0.5"),
        ({"loss": "orpo", "prefer": "shown", "answer_shots": 2, "show": "never"}, "--answer-shots"),
        ({"loss": "orpo", "prefer": "judged"}, "--answers 2"),
        ({"loss": "orpo", "prefer": "shown"}, "--answer-shots"),
        ({"loss": "dpo", "constraints": 0.5, "answers": 2, "mix_seeds": 0.1}, "--mix-seeds"),
        ({"prefer": "judged"}, "--prefer judged"),
        ({"preference_beta": 0.5}, "--preference-beta 0.5"),
    ],
)
def test_a_loss_that_has_nothing_to_learn_from_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.make(given)
    assert named in refused.value.message and "\n" not in refused.value.message


def test_a_judge_that_is_not_there_prefers_nothing() -> None:
    without = settings(prefer="judged").model_copy(update={"assess": "none"})
    assert "needs a judge" in " ".join(loss_contradictions(without))


# Runs on the fakes

JUDGED: dict[str, Any] = {"loss": "dpo", "prefer": "judged", "answers": 3}
SHOWN: dict[str, Any] = {"loss": "orpo", "prefer": "shown", "answer_shots": 2, "kind": "base"}


def notes(said: list[Event]) -> str:
    return "\n".join(event.text for event in said if isinstance(event, Note))


@pytest.mark.parametrize("given", [JUDGED, {**JUDGED, "loss": "orpo"}, SHOWN])
def test_a_run_trains_on_its_pairs(tmp_path: Path, given: dict[str, Any]) -> None:
    run, said = tiny_run(tmp_path / "run", **given)
    first = run.round(1)
    pairs = read_records(first.folder.pairs, PreferencePair)
    examples = {example.id: example for example in first.kept}
    responses = {r.id for name in ("responses", "unshown") for r in read_records(getattr(first.folder, name), Response)}
    assert pairs and len({pair.parents[0] for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.chosen == examples[pair.parents[0]].messages[1:] != pair.rejected
        assert pair.parents[1] in examples[pair.parents[0]].parents and set(pair.parents[1:]) <= responses
        assert alike(pair.chosen[0]["content"], pair.rejected[0]["content"])
    assert first.metrics["data"]["pairs"] == run.phases_done["round-1/filter"]["pairs"] == len(pairs)
    trained = first.training
    assert trained["pairs"] <= len(pairs)
    assert trained["examples"] + trained["validation_examples"] == len(pairs if given["loss"] == "dpo" else first.kept)
    assert f"{len(pairs)} of {len(first.kept)} kept answers have a worse one" in notes(said)


def test_the_rules_look_at_each_answer_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    rule = filtering.response_fault

    def counted(instruction: str, input: str, answer: str, *given: Any, **more: Any) -> Any:
        seen.append(answer)
        return rule(instruction, input, answer, *given, **more)

    monkeypatch.setattr(filtering, "response_fault", counted)
    run, _ = tiny_run(tmp_path / "run", until=loop.Phase(1, "judge"), **{**JUDGED, "loss": "orpo"})
    seen.clear()
    tiny_run(run.path, until=loop.Phase(1, "filter"))
    assert len(seen) == len(run.rounds[0].responses) and RunFolder(run.path).round(1).pairs.exists()


def test_pairs_of_all_rounds_are_read_where_all_are_trained_on(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", strategy="total-base", **JUDGED)
    both = read_pairs(RunFolder(run.path), [1, 2])
    assert len(both) == sum(run.round(n).metrics["data"]["pairs"] for n in (1, 2))
    trained = run.round(2).training
    assert trained["examples"] + trained["validation_examples"] == len(both)


def test_a_round_without_pairs_trains_by_likelihood_and_says_so(tmp_path: Path) -> None:
    """Of instructions that get one answer, none has a worse one beside it: so few carry a constraint that none does."""
    given: dict[str, Any] = {"constraints": 1e-9, "answers": 2}
    run, said = tiny_run(tmp_path / "run", rounds=1, loss="dpo", **given)
    assert "has no pair of answers for --loss dpo, so it trains by likelihood" in notes(said)
    assert "they were asked without a constraint" in notes(said)
    assert "pairs" not in run.round(1).training and run.round(1).training["examples"] == len(run.round(1).kept)
    plain, _ = tiny_run(tmp_path / "plain", rounds=1, **given)
    assert run.round(1).adapter_gguf.read_bytes() == plain.round(1).adapter_gguf.read_bytes()


def test_what_a_program_checked_makes_pairs(tmp_path: Path) -> None:
    """Both answers of a pair were asked with the constraint; the kept one keeps it, the other does not."""
    run, _ = tiny_run(
        tmp_path / "run", loss="dpo", answers=4, constraints=1.0, answer_shots=2, show="every",
        until=loop.Phase(1, "filter"),
    )  # fmt: skip
    folder = RunFolder(tmp_path / "run").round(1)
    passed = {check.response_id: check.passed for check in read_records(folder.checks, Check)}
    kept = {example.id: example for example in read_records(folder.kept, Example)}
    pairs = read_records(folder.pairs, PreferencePair)
    assert pairs and run.next_phase == loop.Phase(1, "train")
    for pair in pairs:
        example, better, worse = pair.parents
        constraint = kept[example].constraint
        assert pair.by == "checked" and passed[better] and not passed[worse]
        assert constraint is not None and constraint["wording"] in pair.prompt[0]["content"]


def test_a_run_without_the_switches_has_nothing_of_them(tmp_path: Path) -> None:
    run, said = tiny_run(tmp_path / "run")
    for number in (1, 2):
        folder = run.round(number)
        assert not folder.folder.pairs.exists() and not folder.folder.unshown.exists()
        assert "pairs" not in folder.training and "pairs" not in folder.metrics["data"]
    assert "pairs" not in run.phases_done["round-1/filter"] and "seed tasks" not in notes(said)


def test_unshown_answers_are_drawn_in_the_round_that_shows_tasks(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", **SHOWN)
    first, second = (run.round(n).folder for n in (1, 2))
    longest: dict[str, int] = {}
    for response in read_records(first.responses, Response):
        longest[response.instruction_id] = max(response.tokens, longest.get(response.instruction_id, 0))
    unshown = read_records(first.unshown, Response)
    assert {r.instruction_id for r in unshown} == {i.id for i in run.round(1).instructions}
    assert all(r.tokens <= max(8, 1.3 * longest[r.instruction_id] + 1) for r in unshown)
    assert not second.unshown.exists()


@pytest.mark.parametrize(("phase", "count"), [("respond", 20), ("filter", 1), ("train", 1)])
def test_a_run_that_dies_goes_on_to_the_same_pairs(tmp_path: Path, phase: str, count: int) -> None:
    given = {**SHOWN, "prefer": "shown", "rounds": 1}
    tiny_run(tmp_path / "undisturbed", **given)
    path = tmp_path / "run"
    flags = [part for n, v in {**TINY, **given}.items() for part in (config.flag(n), str(v))]
    died = minisheep("align", "--preset", "imitation", "--run", str(path), *flags, fault=f"abort:{phase}:{count}")
    assert died.returncode == 3, died.stderr
    if phase == "respond":
        assert 0 < len(read_records(RunFolder(path).round(1).unshown, Response)) < 12
    tiny_run(path)
    assert outcome(path) == outcome(tmp_path / "undisturbed")


def test_a_loss_cannot_be_changed_in_a_run(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", until=loop.Phase(0, "evaluate"), **JUDGED)
    for given in ({"loss": "orpo"}, {"preference_beta": 0.3}, {"loss": "sft", "prefer": "checked"}):
        with pytest.raises(RunMismatchError):
            tiny_run(tmp_path / "run", **given)


def test_another_keep_makes_other_pairs(tmp_path: Path) -> None:
    path = tmp_path / "run"
    tiny_run(path, until=loop.Phase(1, "filter"), **JUDGED)
    before = read_pairs(RunFolder(path), [1])
    tiny_run(path, until=loop.Phase(1, "filter"), keep="top:1.0")
    assert set(before) < set(read_pairs(RunFolder(path), [1]))


# Seed tasks mixed in


def job(count: int, share: float, **given: Any) -> Any:
    asked = config.make({"mix_seeds": share, **given})
    examples = [Example(f"say {n}", "", f"{n}", [], None, None, None, "", (f"i{n}", f"r{n}")) for n in range(count)]
    return train_job(
        asked, fake_model().template, 1, examples, gguf=Path(), weights=Path(), output=Path(), scratch=Path(),
        seeds=load_seeds(),
    )  # fmt: skip


@pytest.mark.parametrize(("count", "share", "mixed"), [(30, 0.0, 0), (30, 0.25, 10), (3, 0.5, 3), (0, 0.5, 0)])
def test_a_share_of_the_examples_are_seed_tasks(count: int, share: float, mixed: int) -> None:
    assert len(job(count, share).examples) == count + mixed


def test_no_held_out_task_is_mixed_in_however_many_are_asked_for() -> None:
    texts = {"".join(s.text for s in e.completion) for e in job(5000, 0.9).examples}
    for seed in load_seeds():
        trained = any(text.startswith(seed.output) for text in texts)
        assert trained is not seed.held_out, seed.id


def test_mixed_data_is_said_at_the_start_and_in_what_tells_of_the_run(tmp_path: Path) -> None:
    run, said = tiny_run(tmp_path / "run", rounds=1, mix_seeds=0.5)
    assert "not trained on self-made data alone" in notes(said)
    assert "seed tasks, written by people" in notes(said)
    trained = run.round(1).training
    assert trained["examples"] + trained["validation_examples"] == 2 * len(run.round(1).kept)
    run.report()
    assert "not trained on self-made data alone" in (run.path / "report" / "report.md").read_text()
    more = api.align(run.path, inline=True, rounds=2)
    assert more.next_phase is None


def test_a_plan_counts_the_second_answer() -> None:
    given = {"answers": 2, "mix_seeds": 0.0, "constraints": 1.0}
    work = {loss: round_work(config.make({**given, "loss": loss})) for loss in ("sft", "orpo", "dpo")}
    trained = {loss: next(p for p in phases if p.phase == "train").trained for loss, phases in work.items()}
    assert trained["orpo"] == pytest.approx(2 * trained["sft"], abs=2) and trained["dpo"] > trained["orpo"]
