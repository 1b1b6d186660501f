"""Runs whose instructions carry constraints, and runs that show solved tasks: on fakes, from settings to metrics."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import Scripted
from tiny_runs import TINY, flags, minisheep, outcome, tiny_run

from minisheep import api, config, loop, opening, presets
from minisheep.data.constraint_kinds import load_catalogue
from minisheep.data.seed_tasks import load_seeds, load_wording
from minisheep.engines.base import GenerateRequest
from minisheep.engines.fake_engine import FakeEngine, text_of
from minisheep.errors import ConfigError, CorruptRunError, StarvedError, Stopped
from minisheep.host import InlineHost
from minisheep.rules.data_settings import asking_rows
from minisheep.rules.ifeval import verify
from minisheep.rules.prompts import Frame
from minisheep.rules.templates import chatml, conversation
from minisheep.rules.wording import ENGLISH, Wording
from minisheep.run.events import Note
from minisheep.run.folder import RunFolder, read_records
from minisheep.run.reading import Reader
from minisheep.run.records import Asked, Check, Example, Instruction, Response, Verdict
from minisheep.stages.constrain import answers_to_check, by_checks, constraint_metrics, one_sided, read_off, spread
from minisheep.stages.filter import by_rules, keep_examples
from minisheep.stages.judge import Pair
from minisheep.stages.respond import Asking, grouped, plan, respond
from minisheep.terminal.pager import sections
from minisheep.terminal.record_browser import history, items
from minisheep.terminal.words import counted
from minisheep.workspace import Workspace

CONSTRAINED: dict[str, Any] = {
    "constraints": 0.6, "hindsight": 0.5, "answers": 3, "show": "every", "answer_shots": 2, "per_round": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return tiny_run(tmp_path_factory.mktemp("constrained") / "run", **CONSTRAINED)[0]


def asked_of(run: api.Run, number: int) -> dict[str, Asked]:
    return {record.id: record for record in read_records(run.round(number).folder.asked, Asked)}


def checks_of(run: api.Run, number: int) -> dict[str, Check]:
    return {check.response_id: check for check in read_records(run.round(number).folder.checks, Check)}


def test_every_kept_pair_with_a_constraint_keeps_it_by_a_programs_verdict(run: api.Run) -> None:
    for found in run.rounds:
        asked, checks = asked_of(run, found.number), checks_of(run, found.number)
        responses = {response.id: response for response in found.responses}
        constrained = [example for example in found.kept if example.constraint is not None]
        assert constrained
        for example in constrained:
            constraint = example.constraint or {}
            assert example.instruction.endswith(constraint["wording"])
            assert example.messages[0]["content"].startswith(example.instruction)
            assert verify(constraint["kind"], constraint["arguments"], example.instruction, example.output)
            record = asked[responses[example.parents[1]].asked]
            assert record.id in example.parents
            # One whose constraint was read off the answer was asked without any, and so was not checked.
            assert record.constraint == (constraint if example.parents[1] in checks else {})


def test_a_rounds_answers_add_up_and_one_to_each_constraint_is_kept(run: api.Run) -> None:
    for found in run.rounds:
        checks = checks_of(run, found.number)
        dropped = {r.parent: r.rule for r in found.rejected if r.stage == "filter"}
        kept = {example.parents[1] for example in found.kept}
        assert kept | set(dropped) == {response.id for response in found.responses} and not kept & set(dropped)
        assert all(dropped[id_] == "constraint_not_kept" or id_ not in kept for id_ in checks if not checks[id_].passed)
        assert max(Counter(example.parents[0] for example in found.kept).values()) == 1
        counts = found.metrics["data"]["constraints"]
        total = counts.pop("total")
        assert total["draws"] == len(checks) == sum(row["draws"] for row in counts.values())
        assert total["passed"] == sum(check.passed for check in checks.values())
        assert total["kept"] + total["hindsight"] == sum(example.constraint is not None for example in found.kept)
        assert total["instructions"] == sum(bool(record.constraint) for record in asked_of(run, found.number).values())


def test_only_kinds_that_are_trained_on_are_drawn_and_the_run_stores_them_all(run: api.Run) -> None:
    stored = json.loads(RunFolder(run.path).constraints.read_text())
    assert stored == load_catalogue().to_dict()
    trained = {name for name, kind in stored["kinds"].items() if kind["trained"]}
    drawn = {record.constraint["kind"] for n in (1, 2) for record in asked_of(run, n).values() if record.constraint}
    assert len(drawn) > 3 and drawn <= trained


@pytest.mark.parametrize("content", ["[]", "null", '"text"', "3"])
def test_stored_constraints_that_are_no_object_are_a_damaged_file(run: api.Run, tmp_path: Path, content: str) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    work = Workspace(tmp_path / "run")
    work.folder.constraints.write_text(content)
    with pytest.raises(CorruptRunError, match=r"constraints\.json is damaged"):
        _ = work.catalogue


def test_tasks_are_shown_in_every_round_drawn_anew_and_never_held_out_ones(run: api.Run) -> None:
    held_out = {seed.id for seed in load_seeds() if seed.held_out}
    plain = [{record.shown for record in asked_of(run, number).values() if not record.constraint} for number in (1, 2)]
    assert all(len(shown) == 1 and len(next(iter(shown))) == 2 for shown in plain)
    assert plain[0] != plain[1]
    for number in (1, 2):
        by_kind: dict[str, set[tuple[str, ...]]] = {}
        for record in asked_of(run, number).values():
            assert not held_out & set(record.shown)
            by_kind.setdefault(record.constraint.get("kind", ""), set()).add(record.shown)
        assert all(len(shown) == 1 for shown in by_kind.values())


def test_without_the_new_settings_nothing_new_is_recorded(tmp_path: Path) -> None:
    plain, _ = tiny_run(tmp_path / "run", kind="base", answer_shots=2)
    for found in plain.rounds:
        assert not found.folder.asked.exists() and not found.folder.checks.exists()
        assert all("asked" not in response.to_dict() for response in found.responses)
        assert all("constraint" not in example.to_dict() for example in found.kept)
        assert "constraints" not in found.metrics["data"]
    assert not RunFolder(plain.path).constraints.exists()


class StopAfter:
    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_stopping_anywhere_leaves_the_same_records(run: api.Run, tmp_path: Path) -> None:
    path, stops = tmp_path / "run", 0
    given: dict[str, Any] = dict(run.settings)
    for count in range(5, 200, 3):
        try:
            with opening.open_run(path, None, {} if stops else given, lambda event: None) as (folder, settings, _, log):
                loop.run(folder, settings, InlineHost(StopAfter(count)), log)
            break
        except Stopped:
            stops += 1
    assert stops > 5
    assert outcome(path) == outcome(run.path)


@pytest.mark.parametrize("phase", ["respond", "judge", "filter"])
def test_a_worker_that_dies_leaves_no_trace(phase: str, run: api.Run, tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = ("align", "--run", str(path), "--preset", "imitation", "--plain", *flags(**CONSTRAINED, rounds=1))
    died = minisheep(*command, fault=f"abort:{phase}:{1 if phase == 'filter' else 9}")
    assert died.returncode == 3, died.stderr
    assert minisheep(*command).returncode == 0
    mine, theirs = outcome(path), outcome(run.path)
    assert {name: mine[name] for name in mine if "-1/" in name} == {n: v for n, v in theirs.items() if "-1/" in n}


def test_without_a_judge_plain_instructions_get_one_answer_and_constrained_ones_all(tmp_path: Path) -> None:
    done, _ = tiny_run(
        tmp_path / "run", assess="none", judge="auto", keep="auto", exam_tasks=12, constraints=0.5, answers=4, rounds=1
    )
    found = done.rounds[0]
    asked = asked_of(done, 1)
    counts = Counter(response.instruction_id for response in found.responses)
    constrained = {record.instruction_id for record in asked.values() if record.constraint}
    assert all(counts[i.id] == (4 if i.id in constrained else 1) for i in found.instructions)
    assert not found.verdicts and checks_of(done, 1)
    assert any(example.constraint is None for example in found.kept)


def test_the_base_may_answer_in_every_round(tmp_path: Path) -> None:
    path = tmp_path / "run"
    done, _ = tiny_run(path, kind="base", answer_model="base", show="every", answer_shots=2)
    work = Workspace(path)
    assert work.asking(2).frame.template is None and work.frame(2).template is not None
    engine = work.answer_engine(2, lambda info: None)
    assert isinstance(engine, FakeEngine) and engine.adapter is None
    work.engine(1, lambda info: None)
    assert engine.adapter is not None
    assert {record.by for record in asked_of(done, 2).values()} == {"base"}
    assert all(response.asked for response in done.rounds[1].responses)


# How an instruction is put

SEEDS = load_seeds()
MADE = [Instruction(1, "draft", n, f"Name thing {n} that floats.", "", 0.1) for n in range(4)]


def asking(**given: Any) -> Asking:
    settings = config.make({"show": "every", "answer_shots": 3, "answer_max_tokens": 40, **given})
    template = chatml()
    return Asking(settings, 2, Frame(template), SEEDS, conversation(template, "", {}), load_catalogue(plugins=False))


def test_a_model_with_a_template_is_shown_tasks_as_earlier_turns() -> None:
    put = asking()
    engine = Scripted({f"{i.id}/0": "A cork." for i in MADE})
    engine.info = type(engine.info)("fake", "scripted", 1, 4096)
    records = {record.instruction_id: record for record in plan(engine, put, MADE).asked}
    answers = list(respond(engine, put, [(i, 0) for i in MADE], records))
    assert {answer.asked for answer in answers} == {record.id for record in records.values()}
    request: GenerateRequest = engine.asked[0]
    text = text_of(request.prompt)
    assert text.count("<|im_start|>user") == 4 and text.count("<|im_start|>assistant") == 4
    assert text.endswith("that floats.<|im_end|>\n<|im_start|>assistant\n")
    answers_shown = [seed.output for seed in SEEDS if seed.id in records[MADE[0].id].shown]
    assert all(f"assistant\n{output}<|im_end|>" in text for output in answers_shown)
    # Words of data never become special tokens.
    assert all(not segment.special for segment in request.prompt if segment.text in answers_shown)


@pytest.mark.parametrize("less", [0, 1, 60])
def test_a_small_context_shows_fewer_tasks_and_loses_nothing(less: int) -> None:
    put = asking()
    engine = Scripted({f"{i.id}/0": "A cork." for i in MADE})
    room = 20
    whole = engine.count(put.prompt(put.solved(), MADE[0].instruction, "")) + room
    alone = engine.count(put.prompt((), MADE[0].instruction, "")) + room
    context = whole - less if less < whole - alone else alone
    put.settings = config.make({**dict(put.settings), "answer_max_tokens": room})
    engine.info = type(engine.info)("fake", "scripted", 1, context)
    made = plan(engine, put, MADE)
    most = {0: 3, 1: 2}.get(less, 0)
    assert max((len(record.shown) for record in made.asked), default=0) == most
    assert made.cramped == (0 if less == 0 else len(MADE))
    records = {record.instruction_id: record for record in made.asked}
    assert len(list(respond(engine, put, [(i, 0) for i in MADE], records))) == len(MADE)
    assert all(engine.count(request.prompt) + min(room, context // 4) <= context for request in engine.asked)


def test_a_context_that_is_too_small_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from minisheep.engines import base

    small = base.EngineInfo("fake", "small", 1, 60)
    monkeypatch.setattr(FakeEngine, "info", property(lambda self: small))
    _, said = tiny_run(tmp_path / "run", show="every", answer_shots=3, rounds=1)
    told = [event.text for event in said if isinstance(event, Note) and "A context of 60 tokens" in event.text]
    assert len(told) == 1 and "--context 120" in told[0]


def test_answers_that_read_the_same_tasks_are_drawn_together() -> None:
    put = asking(constraints=0.7, answers=2)
    made = [Instruction(1, "draft", n, f"Name thing {n} that sinks.", "", 0.1) for n in range(40)]
    engine = Scripted({})
    engine.info = type(engine.info)("fake", "scripted", 1, 4096)
    records = {record.instruction_id: record for record in plan(engine, put, made).asked}
    wanted = [(i, sample) for i in made for sample in range(put.answers(i))]
    groups = grouped(wanted, records)
    assert sorted(map(id, (i for group in groups for i, _ in group))) == sorted(id(i) for i, _ in wanted)
    for group in groups:
        assert len({records[i.id].shown for i, _ in group}) == 1
    constrained = [record for record in records.values() if record.constraint]
    assert len(constrained) == sum(put.carries(i) for i in made) and 18 <= len(constrained) <= 38
    # What is shown carries a constraint of the same kind.
    kind = constrained[0].constraint["kind"]
    check = load_catalogue(plugins=False).kinds[kind].check
    assert put.solved(kind) and any(
        check(answer, **constrained[0].constraint["arguments"]) for *_, answer in put.solved(kind)
    )


def test_show_says_when(tmp_path: Path) -> None:
    for show, frame, round, shown in (
        ("first", None, 1, 2), ("first", chatml(), 1, 0), ("first", None, 2, 0),
        ("every", None, 3, 2), ("every", chatml(), 1, 2),
    ):  # fmt: skip
        settings = config.make({"show": show, "answer_shots": 2})
        turns = conversation(frame, "", {}) if frame else None
        assert len(Asking(settings, round, Frame(frame), SEEDS, turns).solved()) == shown
    one_turn = Asking(config.make({"show": "every", "answer_shots": 2}), 1, Frame(chatml()), SEEDS, None)
    assert one_turn.one_turn and one_turn.solved() == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"show": "every"}, "--answer-shots 3"),
        ({"show": "never", "answer_shots": 2}, "--show never"),
        ({"hindsight": 0.3}, "--constraints 0.5"),
        ({"constraint_file": "mine.toml"}, "--constraints 0.5"),
        ({"constraint_control": "exchanged"}, "--constraints 0.5"),
        ({"constraint_control": "exchanged", "constraints": 0.5, "hindsight": 0.2}, "--hindsight"),
        ({"constraints": 0.5, "rules": "off"}, "--rules on"),
        ({"assess": "none", "answers": 2}, "--constraints"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_the_way_out(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config.make(given)


def test_a_wrong_constraint_file_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        tiny_run(tmp_path / "run", constraints=0.5, constraint_file=str(tmp_path / "nowhere.toml"))
    assert not (tmp_path / "run").exists()


# What is kept


def pair(
    text: str, sample: int = 0, *, finish: str = "end", number: int = 0, kind: str = "punctuation:no_comma"
) -> Pair:
    instruction = Instruction(1, "draft", number, f"Name bird {number}.", "", 0.1)
    constraint = {"kind": kind, "arguments": {}, "wording": "Do not use any commas."} if kind else {}
    asked = Asked(instruction.id, f"Name bird {number}. Do not use any commas.", "", constraint, (), "current")
    return Pair(instruction, Response(instruction.id, sample, text, finish, 3, asked.id), text, asked)


def test_of_passing_answers_the_judge_chooses_else_the_shortest_that_ended() -> None:
    long, short, endless = pair("A wren and a robin."), pair("A wren.", 1), pair("Wren.", 2, finish="length")
    broken = pair("A wren, a robin.", 3)
    every = [long, short, endless, broken]
    checks = {p.response.id: Check(p.response.id, "punctuation:no_comma", p is not broken, "") for p in every}
    cuts = {p.response.id: "" for p in every}
    kept, dropped = by_checks(every, checks, {}, cuts)
    assert kept == [short]
    assert {rule: sum(found == rule for _, (found, _) in dropped) for rule in ("not_best", "constraint_not_kept")} == {
        "not_best": 2, "constraint_not_kept": 1,
    }  # fmt: skip
    verdicts = {
        p.response.id: Verdict(p.response.id, "pmi", None, None, s, {})
        for p, s in zip(every, (0.9, 0.1, 0.3, 2), strict=True)
    }
    assert by_checks(every, checks, verdicts, cuts)[0] == [long]


def test_a_pair_that_keeps_its_constraint_is_kept_whatever_the_judge_thinks() -> None:
    good, plain = pair("A wren."), pair("The robin, the wren.", number=1, kind="")
    verdicts = [Verdict(p.response.id, "logits", 1, 1, 1, {}) for p in (good, plain)]
    instructions = [good.instruction, plain.instruction]
    found = by_rules(instructions, [good.response, plain.response], asked=[p.asked for p in (good, plain) if p.asked])
    kept, dropped = keep_examples(
        config.make({"judge": "logits", "keep": "threshold:8", "constraints": 0.5}), 1, instructions, found, verdicts,
        [Check(good.response.id, "punctuation:no_comma", True, "")],
    )  # fmt: skip
    assert [example.instruction for example in kept] == ["Name bird 0. Do not use any commas."]
    assert [rejection.rule for rejection in dropped] == ["low_score"]
    assert "without a constraint" in one_sided(kept, config.make({"constraints": 0.5}))


def test_constraints_that_no_answer_keeps_are_named_as_what_to_change() -> None:
    bad = pair("A wren, a robin.")
    assert bad.asked is not None
    with pytest.raises(StarvedError) as starved:
        keep_examples(
            config.make({"judge": "logits", "constraints": 1.0}), 1, [bad.instruction],
            by_rules([bad.instruction], [bad.response], asked=[bad.asked]), [],
            [Check(bad.response.id, "punctuation:no_comma", False, "")],
        )  # fmt: skip
    assert "constraint_not_kept 1" in starved.value.message
    assert "--constraint-file" in starved.value.fix and "--answer-temperature" not in starved.value.fix


def example(name: str, text: str = "A wren.", constraint: dict[str, Any] | None = None) -> Example:
    messages = [{"role": "user", "content": name}, {"role": "assistant", "content": text}]
    return Example(name, "", text, messages, None, None, None, "", (f"i{name}", f"r{name}"), constraint)


def test_any_beginning_of_what_is_kept_holds_its_share_of_both() -> None:
    first, second = [example(f"a{n}") for n in range(8)], [example(f"b{n}") for n in range(4)]
    joined = spread(first, second)
    assert [e for e in joined if e in first] == first and [e for e in joined if e in second] == second
    assert sum(e in second for e in joined[:6]) == 2
    assert spread([], second) == second


def test_what_is_read_off_answers_is_true_of_them_and_within_the_share() -> None:
    texts = [
        "A wren sings before dawn.",
        "Bread, milk, eggs, tea, oats, and jam, all of it fresh and from the market.",
    ] * 5
    kept = [example(str(n), f"{text} {n}") for n, text in enumerate(texts)]
    answers = {e.parents[1]: e.output for e in kept}
    settings = config.make({"constraints": 0.5, "hindsight": 0.4})
    found = read_off(settings, 1, load_catalogue(plugins=False), kept, answers)
    changed = [new for new, old in zip(found, kept, strict=True) if new != old]
    assert 0 < len(changed) <= 4
    for new in changed:
        assert new.constraint and verify(new.constraint["kind"], new.constraint["arguments"], "", new.output)
        assert new.messages[0]["content"] == new.instruction and new.instruction.endswith(new.constraint["wording"])
    counts = constraint_metrics([], [], found)
    assert counts == {"total": {"draws": 0, "passed": 0, "instructions": 0, "kept": 0, "hindsight": len(changed)}}


def test_the_control_exchanges_constraints_and_nothing_else(tmp_path: Path, run: api.Run) -> None:
    given: dict[str, Any] = {**dict(run.settings), "hindsight": 0.0, "rounds": 1}
    plain = api.align(tmp_path / "plain", inline=True, **given).rounds[0].kept
    control = (
        api.align(tmp_path / "control", inline=True, **{**given, "constraint_control": "exchanged"}).rounds[0].kept
    )
    assert [(e.output, e.input, e.parents) for e in plain] == [(e.output, e.input, e.parents) for e in control]
    both = [(a, b) for a, b in zip(plain, control, strict=True) if a.constraint]
    assert len(both) > 3 and all(a == b for a, b in zip(plain, control, strict=True) if not a.constraint)
    assert sorted(str(a.constraint) for a, _ in both) == sorted(str(b.constraint) for _, b in both)
    assert all(a.constraint["kind"] != b.constraint["kind"] for a, b in both if a.constraint and b.constraint)
    assert all(b.constraint and b.messages[0]["content"].count(b.constraint["wording"]) == 1 for _, b in both)


# Presets


def test_the_paper_takes_whole_answers_and_the_first_ones_by_its_own_rules() -> None:
    settings = config.make({}, "paper")
    assert (settings.rules, settings.take, settings.patience, settings.exam_tasks) == ("paper", "first", 0, 0)
    pairs = [
        pair(text, number=n, kind="") for n, text in enumerate(("Wren wren wren wren wren.", "A robin, then an end"))
    ]
    rambling = pair("A wren.\n\nInstruction: Name a fish.", number=2, kind="")
    every = [*pairs, rambling]
    verdicts = [Verdict(p.response.id, "sample", s, s, s, {}) for p, s in zip(every, (9, 10, 10), strict=True)]
    instructions, responses = [p.instruction for p in every], [p.response for p in every]
    kept, dropped = keep_examples(settings, 1, instructions, by_rules(instructions, responses, rules="paper"), verdicts)
    assert [e.output for e in kept] == [p.answer for p in pairs]
    assert [r.rule for r in dropped] == ["new_turn"]
    settings = config.make({"judge": "sample"})
    ours, _ = keep_examples(settings, 1, instructions, by_rules(instructions, responses), verdicts)
    assert [e.output for e in ours] == ["A robin, then an end", "A wren."]


def test_a_run_says_and_keeps_what_preset_it_began_from(tmp_path: Path) -> None:
    done, said = tiny_run(tmp_path / "run", rounds=1)
    (told,) = [event.text for event in said if isinstance(event, Note) and event.text.startswith("Settings: ")]
    assert "preset imitation" in told and "--per-round 12" in told
    assert opening.preset_of(RunFolder(done.path)) == "imitation"
    _, said = tiny_run(tmp_path / "run", rounds=2)
    assert not any(isinstance(event, Note) and event.text.startswith("Settings: ") for event in said)
    assert opening.preset_of(RunFolder(done.path)) == "imitation"
    assert set(presets.PRESET_NOTES) == set(presets.PRESETS)


def test_the_guide_names_every_setting_of_the_papers_preset() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "guide" / "paper.md").read_text(encoding="utf-8")
    for name, value in presets.PRESETS["paper"].items():
        assert f"`{config.flag(name)} {value}`" in guide


def test_the_guide_names_every_setting_of_the_default() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "guide" / "settings.md").read_text(encoding="utf-8")
    for name, value in presets.PRESETS[presets.DEFAULT_PRESET].items():
        assert f"`{config.flag(name)} {value}`" in guide


@pytest.mark.parametrize(
    ("given", "without"),
    [
        ({}, ()),
        ({"language": "Chinese"}, ()),
        ({"language": "de"}, ("constraints", "answers")),
        ({"language": "de", "constraint_file": "de.toml"}, ()),
        ({"language": "no such"}, ()),
        ({"constraints": 0.0}, ("constraints", "answers")),
        ({"rules": "off"}, ("constraints", "answers")),
        ({"show": "never"}, ("show", "answer_shots")),
        ({"answer_shots": 0}, ("show", "answer_shots")),
    ],
)
def test_the_default_gives_way_to_what_speaks_against_it(given: dict[str, Any], without: tuple[str, ...]) -> None:
    proposed = presets.PRESETS[presets.DEFAULT_PRESET]
    found = presets.with_preset(given, presets.DEFAULT_PRESET)
    assert found == {**{name: value for name, value in proposed.items() if name not in without}, **given}
    # Other presets are what they say, whatever is given with them.
    assert presets.with_preset({"constraints": 0.0}, "demo")["answers"] == presets.PRESETS["demo"]["answers"]


def test_the_languages_of_the_default_are_those_with_wordings() -> None:
    shipped = Path(presets.__file__).parent / "data"
    codes = {path.name.split(".")[1] for path in shipped.glob("constraints.*.toml")} | {"en"}
    assert codes == presets.WORDED


def test_a_presets_own_settings_are_all_that_a_run_takes_from_it(tmp_path: Path) -> None:
    """The default is not below another preset, and an older run without some settings does not take it either."""
    done, _ = tiny_run(tmp_path / "run", rounds=1)
    assert done.settings == config.Settings(**{**presets.PRESETS["imitation"], **TINY, "rounds": 1})
    kept = done.path / "run.toml"
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(line for line in lines if not line.startswith(("constraints ", "answers "))))
    assert api.load_run(done.path).settings == done.settings
    again, _ = tiny_run(tmp_path / "run")
    assert again.settings.constraints == 0 and again.settings.answers == 1


def test_a_run_without_a_preset_is_the_default(tmp_path: Path) -> None:
    small = {**TINY, "generate_max_tokens": 200, "answer_max_tokens": 64, "rounds": 1, "eval_max_tokens": 32}
    done = api.align(tmp_path / "run", inline=True, **small)
    proposed = presets.PRESETS[presets.DEFAULT_PRESET]
    assert all(dict(done.settings)[name] == value for name, value in {**proposed, **small}.items())
    assert done.rounds[0].folder.asked.exists()


# What is told afterwards


def test_a_records_history_tells_how_it_was_asked_and_what_the_program_found(run: api.Run) -> None:
    found = run.rounds[0]
    checks = {check.response_id: check for check in found.checks}
    kept = next(example for example in found.kept if example.parents[1] in checks)
    records = found.whole(Reader(run.path))
    told = dict(sections(history(records, load_seeds(), kept.id)))
    (asked,) = [text for heading, text in told.items() if heading.startswith("asked as") and "after" in heading]
    assert kept.instruction in asked
    assert any(heading.startswith(f"check {checks[kept.parents[1]].id}") and " kept" in heading for heading in told)
    (item,) = [item for item in items(records) if item.decision_id == kept.id]
    assert item.instruction == kept.instruction
    # By the id of what was asked, too.
    assert history(records, [], kept.parents[-1]).answers and list(found.ids_with(kept.parents[-1]))


def test_the_report_names_the_preset_and_says_where_none_was_recorded(run: api.Run) -> None:
    assert "Preset: imitation (" in api.load_run(run.path).report().with_suffix(".md").read_text()
    folder = RunFolder(run.path)
    manifest = folder.read_manifest()
    folder.write_manifest({name: value for name, value in manifest.items() if name != "preset"})
    try:
        assert "Preset: not recorded" in run.report().with_suffix(".md").read_text()
    finally:
        folder.write_manifest(manifest)


def test_a_phase_tells_how_many_answers_keep_their_constraint() -> None:
    counts = {"judged": 4.0, "dropped_by_rules": 1.0, "checked": 9.0, "passed": 5.0}
    assert counted("judge", counts).endswith("; 5 of 9 answers keep their constraint")
    # Where a program alone judges, "0 pairs judged" would read as a fault.
    alone = counted("judge", counts | {"judged": 0.0})
    assert alone == "1 dropped by rules before; 5 of 9 answers keep their constraint"


def test_cards_say_how_answers_were_asked_for() -> None:
    assert asking_rows(config.make({})) == {}
    rows = asking_rows(config.make({"constraints": 0.5, "show": "every", "answer_shots": 3}))
    assert "50%" in rows["constraints"] and "every round" in rows["solved seed tasks shown"]


@pytest.mark.parametrize(
    ("text", "finish", "instruction", "wording"),
    [
        ("Question: Why?\nAnswer: So.\n\nQuestion: Who?\nAnswer: Us.", "end", "Write questions and answers.", ENGLISH),
        ("羊吃青草。\n问题：牛呢？\n回答：也吃。", "length", "羊吃什么？", load_wording(language="zh")),
    ],
)
def test_what_a_program_checks_is_the_text_that_is_kept(
    text: str, finish: str, instruction: str, wording: Wording
) -> None:
    made = Instruction(1, "draft", 0, instruction, "", 0.1)
    asked = Asked(made.id, instruction, "", {"kind": "k", "arguments": {}, "wording": ""}, (), "current")
    response = Response(made.id, 0, text, finish, 9, asked.id)
    ((_, _, checked),) = answers_to_check([asked], [response], wording)
    candidates = by_rules([made], [response], wording, asked=[asked])
    kept = [pair.answer for pair in candidates.pairs] or [rejection.output for rejection in candidates.rejected]
    assert kept == [checked]
