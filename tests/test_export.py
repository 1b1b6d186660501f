"""The parent's part of an export: which round, where to, the cards, and a folder that appears whole or not at all."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from export_runs import finished_run
from gguf_builder import tiny_gguf
from tiny_runs import tiny_run

from minisheep import config
from minisheep.cli.export import TARGETS
from minisheep.cli.main import cli
from minisheep.errors import CorruptRunError, DiskError, ExportError, MinisheepError, UsageError
from minisheep.export import export_choice, exporting, model_cards, worker
from minisheep.export.export_choice import ExportChoice, ExportSpec
from minisheep.run.events import Event, Note
from minisheep.run.files import read_json, write_json
from minisheep.run.folder import RunFolder

CHECKS = [{"name": "GGUF: agreement", "passed": True, "text": "20 answers | alike"}]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finished_run(tmp_path / "run").path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[ExportSpec]:
    """The worker is left out: what it would make is a small file, and its checks pass."""
    seen: list[ExportSpec] = []

    def work(spec: ExportSpec, phase: str, out: Path, emit: Any, tick: Any) -> None:
        seen.append(spec)
        spec.model_folder.mkdir(parents=True, exist_ok=True)
        spec.gguf.write_bytes(b"GGUF of round %d" % spec.round)
        write_json(spec.report, {"checks": CHECKS})

    monkeypatch.setattr(exporting, "_work", work)
    return seen


def export(choice: ExportChoice, out: Path, target: str = "gguf", **options: Any) -> dict[str, Any]:
    said: list[Event] = options.pop("said", [])
    return exporting.export(choice, target, "Q4_K_M", out, said.append, **options)


def front(path: Path) -> dict[str, Any]:
    from huggingface_hub import RepoCard

    return RepoCard(path.read_text()).data.to_dict()


# Which round, and where to


def test_best_is_the_round_that_the_run_calls_best(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minisheep.api.Run.best", property(lambda self: 1))
    chosen = export_choice.choose_export(str(run), "best")
    assert (chosen.round, chosen.note) == (1, "")


def test_without_a_best_round_the_last_is_taken_and_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minisheep.api.Run.best", property(lambda self: None))
    chosen = export_choice.choose_export(str(run), "best")
    assert chosen.round == 2 and "round 2" in chosen.note


@pytest.mark.parametrize("told", ["3", "0", "-1", "first", "²"])
def test_an_unknown_round_is_refused_with_those_there_are(run: Path, told: str) -> None:
    with pytest.raises(UsageError, match="1, 2"):
        export_choice.choose_export(str(run), told)


@pytest.mark.parametrize("gone", ["adapter.gguf", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"])
def test_a_round_without_its_whole_adapter_is_no_trained_round(run: Path, gone: str) -> None:
    (run / "round-2" / gone).unlink()
    assert export_choice.choose_export(str(run), "last").round == 1
    with pytest.raises(UsageError, match="1"):
        export_choice.choose_export(str(run), "2")


def test_a_run_that_trained_nothing_is_refused(run: Path) -> None:
    for number in (1, 2):
        (run / f"round-{number}" / "adapter.gguf").unlink()
    with pytest.raises(UsageError):
        export_choice.choose_export(str(run), "best")


def test_a_run_of_the_fake_engine_is_refused(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run")
    with pytest.raises(UsageError, match="fake"):
        export_choice.choose_export(str(run.path), "last")


@pytest.mark.parametrize(
    ("model", "gguf", "weights", "known"),
    [
        ("smollm2-135m", "", "", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("qwen2.5-0.5b", "", "", "Qwen/Qwen2.5-0.5B"),
        ("Org/Some-GGUF:a.gguf", "", "", "Org/Some-GGUF"),
        ("Org/Some-GGUF:a.gguf", "", "Org/Some", "Org/Some"),
        ("here.gguf", "", "", ""),
        ("no such model", "", "", ""),
    ],
)
def test_the_base_is_named_by_its_id_on_the_hub(model: str, gguf: str, weights: str, known: str) -> None:
    settings = config.make({"model": model, "gguf": gguf, "weights": weights})
    assert export_choice.hub_id(export_choice.known(settings)) == known


@pytest.mark.parametrize("told", ["smollm2", "a/b/c", "a/b:c.gguf", "../x", "a b/c"])
def test_what_is_no_id_is_not_put_into_a_card(run: Path, told: str) -> None:
    with pytest.raises(UsageError):
        export_choice.choose_export(str(run), "last", told)


def test_exports_of_two_rounds_or_formats_have_folders_of_their_own(run: Path) -> None:
    chosen = export_choice.choose_export(str(run), "2")
    assert export_choice.output(chosen, "ollama", "Q4_K_M", None) == run / "export" / "ollama-round-2-Q4_K_M"
    assert export_choice.output(chosen, "merged", "Q4_K_M", None) == run / "export" / "merged-round-2"
    assert export_choice.output(chosen, "merged", "Q4_K_M", "there") == Path("there")


@pytest.mark.parametrize(
    ("parameters", "format"),
    [
        (0, "Q8_0"),
        (268_098_176, "F16"),
        (5 * 10**8, "Q8_0"),
        (999_999_999, "Q8_0"),
        (10**9, "Q4_K_M"),
        (7_721_324_544, "Q4_K_M"),
    ],
)
def test_a_small_model_is_not_rounded_to_four_bits(parameters: int, format: str) -> None:
    assert export_choice.default_format(parameters) == format


@pytest.mark.parametrize(
    ("model", "parameters"), [("smollm2-135m", 134_515_008), ("qwen2.5-7b", 7_615_616_512), ("here.gguf", 0)]
)
def test_the_size_is_known_before_the_file_is_here(tmp_path: Path, model: str, parameters: int) -> None:
    run = finished_run(tmp_path / "run", model=model)
    assert export_choice.choose_export(str(run.path), "last").parameters == parameters


def test_the_size_of_a_model_of_ones_own_is_read_from_its_file(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", model="here.gguf")
    (run.path / "none.gguf").write_bytes(tiny_gguf())
    assert export_choice.choose_export(str(run.path), "last").parameters == 5 * 64 + 8 * 64 + 64


@pytest.mark.parametrize(
    ("where", "format", "parameters", "hint"),
    [
        ("GGUF", "Q4_K_M", 268_098_176, "Leave --quantise out: a model of this size is then exported in F16"),
        ("GGUF", "Q3_K_M", 10**10, "Leave --quantise out: a model of this size is then exported in Q4_K_M"),
        ("GGUF", "F16", 268_098_176, "Another --round, --to or --quantise may pass"),
        ("adapter", "Q4_K_M", 268_098_176, "Another --round, --to or --quantise may pass"),
    ],
)
def test_a_failed_check_says_what_may_pass(where: str, format: str, parameters: int, hint: str) -> None:
    assert worker.remedy(where, format, parameters).startswith(hint)


# The folder


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_its_card_and_says_what_it_is(
    run: Path, made: list[ExportSpec], tmp_path: Path, target: str
) -> None:
    found = export(export_choice.choose_export(str(run), "2"), tmp_path / "out", target)
    told = read_json(tmp_path / "out" / "export.json")
    assert told["target"] == target and told["checks"] == CHECKS and told["round"] == 2
    assert {name for name in told["files"]} == {
        str(p.relative_to(tmp_path / "out"))
        for p in (tmp_path / "out").rglob("*")
        if p.is_file() and p.name != "export.json"
    }
    assert any(name.endswith("README.md") for name in told["files"])
    assert found["folder"] == str(tmp_path / "out")


def test_lm_studio_gets_publisher_and_model_folders(run: Path, made: list[ExportSpec], tmp_path: Path) -> None:
    export(export_choice.choose_export(str(run), "2"), tmp_path / "out", "lmstudio")
    assert [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.gguf")] == [
        "minisheep/smollm2-135m-round-2/smollm2-135m-round-2-Q4_K_M.gguf"
    ]


def test_an_export_is_replaced_only_when_asked(run: Path, made: list[ExportSpec], tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(export_choice.choose_export(str(run), "1"), out)
    with pytest.raises(UsageError, match="--overwrite"):
        export(export_choice.choose_export(str(run), "2"), out)
    assert read_json(out / "export.json")["round"] == 1
    export(export_choice.choose_export(str(run), "2"), out, overwrite=True)
    assert read_json(out / "export.json")["round"] == 2
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith((".out", "out"))) == ["out"]


def test_a_folder_that_is_no_export_is_never_replaced(run: Path, made: list[ExportSpec], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="mine"):
        export(export_choice.choose_export(str(run), "1"), tmp_path / "mine", overwrite=True)
    assert made == [] and (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def failing(error: Exception) -> Callable[..., None]:
    def work(spec: ExportSpec, phase: str, out: Path, emit: Any, tick: Any) -> None:
        spec.model_folder.mkdir(parents=True)
        spec.gguf.write_bytes(b"half")
        raise error

    return work


@pytest.mark.parametrize("error", [ExportError("a check failed"), DiskError("full"), KeyboardInterrupt()])
def test_nothing_is_left_of_an_export_that_failed(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    monkeypatch.setattr(exporting, "_work", failing(error))
    with pytest.raises(type(error)):
        export(export_choice.choose_export(str(run), "1"), tmp_path / "there" / "out")
    assert list((tmp_path / "there").iterdir()) == []


def test_a_disk_that_is_full_at_the_cards_leaves_nothing(
    run: Path, made: list[ExportSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model_cards, "write", full)
    with pytest.raises(DiskError):
        export(export_choice.choose_export(str(run), "1"), tmp_path / "there" / "out")
    assert list((tmp_path / "there").iterdir()) == []


def test_what_a_killed_export_left_is_cleared_by_the_next(run: Path, made: list[ExportSpec], tmp_path: Path) -> None:
    left = tmp_path / ".out.999999999.tmp"
    left.mkdir()
    export(export_choice.choose_export(str(run), "1"), tmp_path / "out")
    assert not left.exists()


def test_a_run_is_only_read(run: Path, made: list[ExportSpec], tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    export(export_choice.choose_export(str(run), "2"), tmp_path / "out", "hub-folder")
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_note_on_the_round_is_told(
    run: Path, made: list[ExportSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minisheep.api.Run.best", property(lambda self: None))
    said: list[Event] = []
    export(export_choice.choose_export(str(run), "best"), tmp_path / "out", said=said)
    assert any(isinstance(e, Note) and e.level == "warning" and "No best round" in e.text for e in said)


# The cards


@pytest.fixture
def hub(run: Path, made: list[ExportSpec], tmp_path: Path) -> Path:
    export(export_choice.choose_export(str(run), "2"), tmp_path / "hub", "hub-folder", repo="me/sheep")
    return tmp_path / "hub"


def test_the_model_card_has_no_empty_field(hub: Path) -> None:
    told = front(hub / "model" / "README.md")
    assert told == {
        "license": "apache-2.0",
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "base_model_relation": "finetune",
        "datasets": ["me/sheep-data"],
        "language": "en",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["minisheep", "i-sheep", "self-alignment", "synthetic"],
    }


def test_the_data_card_names_each_rounds_file(hub: Path) -> None:
    told = front(hub / "dataset" / "README.md")
    assert told["configs"] == [{"config_name": f"round-{n}", "data_files": f"data/round-{n}.jsonl"} for n in (1, 2)]
    assert told["size_categories"] == "n<1K" and all(value for value in told.values())
    for one in told["configs"]:
        rows = [json.loads(line) for line in (hub / "dataset" / one["data_files"]).read_text().splitlines()]
        assert len(rows) == 3 and all(row["messages"][1]["content"] == row["output"] for row in rows)


@pytest.mark.parametrize("card", ["model", "dataset"])
def test_every_row_of_a_card_is_filled(hub: Path, card: str) -> None:
    text = (hub / card / "README.md").read_text()
    tables = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    assert len(tables) > 8
    for line in tables:
        first, *cells = [cell.strip() for cell in line.replace("\\|", "").strip("|").split("|")]
        assert all(cells) or not first, line
    assert "None" not in text and "nan" not in text


def test_the_card_has_the_runs_numbers_and_intervals(hub: Path) -> None:
    text = (hub / "model" / "README.md").read_text()
    assert "| 2 | 30 | 3 | pmi | filter.low_score 12 |" in text
    assert "round 2" in text and "SHA-256 abab" in text
    beginning = text.partition("\n# ")[2].split("\n\n")[1]
    assert beginning.startswith("Use round 2: it is ") and "the base model" in beginning
    assert any("%" in line and "[" in line for line in text.splitlines() if line.startswith("| strict"))
    assert "20 answers \\| alike" in text


def test_a_model_card_begins_with_the_verdict_then_answers_then_the_measures_that_decide(
    made: list[ExportSpec], tmp_path: Path
) -> None:
    said = "</td></table>\n\n# Not a heading <script> & | pipe " + "long " * 80 + "\n1." * 50
    run = finished_run(tmp_path / "run", answers=("Plain.", "Plain.", said))
    export(export_choice.choose_export(str(run.path), "2"), tmp_path / "hub", "hub-folder")
    parts = (tmp_path / "hub" / "model" / "README.md").read_text().partition("\n# ")[2].split("\n\n")
    _, sentence, told, answers, table, legend, made_by, *_ = parts
    assert sentence == run.verdict and told.startswith("Answers before and after, chosen by a fixed rule")
    # What a model wrote ends neither its cell nor the block, and a long answer is cut.
    assert answers.startswith("<table>\n") and answers.endswith("\n</table>") and answers.count("</table>") == 1
    assert "&lt;/td&gt;&lt;/table&gt;<br><br># Not a heading &lt;script&gt; &amp; | pipe" in answers
    assert answers.count("Plain.</td>") == answers.count("...</td>") == 2
    assert answers.count("<br>") < 20
    titles, _, *rows = table.splitlines()
    assert titles == "| measure (up is better) | base | best: round 2 | round 2 - base |" and 2 < len(rows) <= 6
    decided = [row for row in rows if "* |" in row]
    assert decided and all(row.endswith((" better |", " unclear |", " worse |")) for row in decided)
    assert legend.startswith("\\* decides") and "aligned with minisheep" in made_by


def test_the_card_of_a_round_that_is_worse_than_its_base_says_so_first(made: list[ExportSpec], tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", kept=(0.8, 0.2, 0.2), nll=(2.0, 2.0, 2.0))
    export(export_choice.choose_export(str(run.path), "2"), tmp_path / "out")
    beginning = (tmp_path / "out" / "README.md").read_text().partition("\n# ")[2].split("\n\n")[1]
    assert beginning.startswith("Use the base model: round 2 is worse than the base model in following constraints")


@pytest.mark.parametrize("target", TARGETS)
def test_every_card_has_code_that_loads_what_is_there(
    run: Path, made: list[ExportSpec], tmp_path: Path, target: str
) -> None:
    """The code itself is run on real models in tests/test_export_real.py."""
    repo = "me/sheep" if target == "hub-folder" else ""
    export(export_choice.choose_export(str(run), "2"), tmp_path / "out", target, repo=repo)
    (card,) = (p for p in (tmp_path / "out").rglob("README.md") if p.parent.name != "dataset")
    blocks = re.findall(r"```(\w+)\n(.*?)\n```", card.read_text(), re.DOTALL)
    python = [code for kind, code in blocks if kind == "python"]
    for code in python:
        compile(code, target, "exec")
    loads = {"adapter": ["PeftModel"], "merged": ["AutoModelForCausalLM"], "hub-folder": ["AutoModelForCausalLM"]}
    assert all(word in code for word, code in zip(loads.get(target, []), python, strict=True))
    shells = [code for kind, code in blocks if kind == "bash"]
    gguf = f"{made[-1].name}-Q4_K_M.gguf"
    assert (f"llama-cli --jinja -m {gguf}" in "".join(shells)) == (target in export_choice.WITH_GGUF)
    assert ("hf download me/sheep" in "".join(shells)) == bool(repo)


def test_what_a_run_calls_itself_is_no_markup_in_a_card(run: Path, made: list[ExportSpec], tmp_path: Path) -> None:
    odd = "<img src=x onerror=y> ![a](http://x.example/t.png) [b](javascript:c)\n---\nlicense: mit"
    model = read_json(RunFolder(run).model)
    model |= {"title": odd, "licence": odd}
    model["template"]["end"] = "</s>`" + odd
    write_json(RunFolder(run).model, model)
    export(export_choice.choose_export(str(run), "2"), tmp_path / "out", "hub-folder")
    for card in (tmp_path / "out" / "model" / "README.md", tmp_path / "out" / "dataset" / "README.md"):
        text = card.read_text().split("---\n", 2)[2]
        assert not re.search(r"(?<!\\)<img|(?<!\\)\](?=\()|^license:", text, re.MULTILINE), text
        assert front(card)["license"] == "other"


def test_an_exported_adapter_names_no_library_to_import(run: Path, tmp_path: Path) -> None:
    spec = ExportSpec(run=str(run), round=2, target="adapter", work=str(tmp_path / "work"), format="F16")
    path = RunFolder(run).round(2).adapter / "adapter_config.json"
    write_json(path, read_json(path) | {"auto_mapping": {"parent_library": "antigravity"}, "revision": "evil"})
    work: Any = SimpleNamespace(spec=spec, round=RunFolder(run).round(2), model=SimpleNamespace(name="m", gguf=run))
    with pytest.raises(MinisheepError):  # there is no vocabulary
        worker._adapter(work, [], [])
    written = read_json(spec.adapter_folder / "adapter_config.json")
    assert written["auto_mapping"] is None and written["revision"] is None and written["r"] == 2


def test_names_in_measures_are_names(run: Path, made: list[ExportSpec], tmp_path: Path) -> None:
    path = RunFolder(run).round(2).metrics
    metrics = read_json(path)
    metrics["data"]["scores"] = {"judge": "<b>![a](http://x.example)"}
    write_json(path, metrics)
    export(export_choice.choose_export(str(run), "2"), tmp_path / "out")
    assert "<b>" not in (tmp_path / "out" / "README.md").read_text()
    metrics["data"]["dropped_by_rule"] = {"<b>": 1}
    write_json(path, metrics)
    with pytest.raises(CorruptRunError, match="dropped_by_rule"):
        model_cards.rounds(export_choice.choose_export(str(run), "2"))


def test_a_base_without_an_id_is_named_in_the_text_alone(made: list[ExportSpec], tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", model="here.gguf")
    export(export_choice.choose_export(str(run.path), "1"), tmp_path / "out", "hub-folder")
    assert "base_model" not in front(tmp_path / "out" / "model" / "README.md")
    export(export_choice.choose_export(str(run.path), "1", "me/base"), tmp_path / "other", "hub-folder")
    assert front(tmp_path / "other" / "model" / "README.md")["base_model"] == "me/base"


def test_a_run_that_trains_on_all_rounds_says_so(made: list[ExportSpec], tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", strategy="total-base")
    export(export_choice.choose_export(str(run.path), "2"), tmp_path / "out")
    assert "round 1, 2" in (tmp_path / "out" / "README.md").read_text()


def test_a_round_that_was_not_measured_claims_nothing(run: Path, made: list[ExportSpec], tmp_path: Path) -> None:
    (run / "round-2" / "metrics.json").unlink()
    export(export_choice.choose_export(str(run), "2"), tmp_path / "out")
    assert "makes no claim" in (tmp_path / "out" / "README.md").read_text()


def test_text_that_no_encoding_holds_does_not_stop_the_data(made: list[ExportSpec], tmp_path: Path) -> None:
    from export_runs import example

    from minisheep.run.folder import replace_records
    from minisheep.run.records import Example

    run = finished_run(tmp_path / "run")
    content = {**example(1).content(), "output": "half a pair \ud800"}
    replace_records(RunFolder(run.path).round(1).kept, [Example(**content)])
    export(export_choice.choose_export(str(run.path), "1"), tmp_path / "out", "hub-folder")
    (row,) = (tmp_path / "out" / "dataset" / "data" / "round-1.jsonl").read_text().splitlines()
    assert json.loads(row)["output"] == "half a pair ?"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("Gemma Terms of Use", {"license": "gemma"}),
        ("Tongyi Qianwen Licence", {"license": "other", "license_name": "tongyi-qianwen-licence"}),
        ("", {"license": "unknown"}),
    ],
)
def test_a_licence_is_named_as_the_hub_does(name: str, fields: dict[str, str]) -> None:
    assert model_cards.card_fields(name) == fields


def test_a_merged_models_configuration_is_read_by_transformers_4_and_5(tmp_path: Path) -> None:
    base, made = tmp_path / "base", tmp_path / "made"
    base.mkdir()
    made.mkdir()
    rope = {"rope_type": "default", "rope_theta": 100_000.0}
    given = {"rope_parameters": rope, "dtype": "bfloat16", "eos_token_id": 1, "pad_token_id": 0}
    write_json(base / "config.json", given)
    work: Any = SimpleNamespace(model=SimpleNamespace(weights=base), settings=config.make({}))
    worker._configure(work, made, 7, [7, 1])
    found = read_json(made / "config.json")
    assert found["rope_theta"] == 100_000.0 and found["rope_parameters"] == rope and found["eos_token_id"] == 7
    assert found["torch_dtype"] == found["dtype"] == "bfloat16"
    # Without it, or below 5, version 4.57 would warn of a fault that some tokenizers had.
    assert found["transformers_version"].startswith("5.")
    assert read_json(made / "generation_config.json")["eos_token_id"] == [7, 1]


def test_every_licence_of_the_registry_has_a_name_for_a_card() -> None:
    from minisheep.models.registry import load_registry

    for entry in load_registry().values():
        fields = model_cards.card_fields(entry.licence)
        assert fields["license"] != "unknown" and all(fields.values()), entry.name


# Pushing


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", "secret-token")


def test_a_push_needs_a_hub_folder_a_name_and_a_token(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_cards.check("me/sheep", "hub-folder") == "secret-token"
    for repo, target in (("me/sheep", "gguf"), ("sheep", "hub-folder"), ("../x", "hub-folder")):
        with pytest.raises(UsageError):
            model_cards.check(repo, target)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match="HF_TOKEN"):
        model_cards.check("me/sheep", "hub-folder")


def test_a_push_off_line_is_refused_before_anything_is_made(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError):
        model_cards.check("me/sheep", "hub-folder")


class Hub:
    """Stands in for the hub's client."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._error = error

    def __call__(self, token: str) -> Hub:
        self.calls.append(("token", token))
        return self

    def create_repo(self, name: str, *, private: bool, repo_type: str, exist_ok: bool) -> None:
        if self._error:
            raise self._error
        self.calls.append(("create", name, repo_type, private))

    def upload_folder(self, *, repo_id: str, folder_path: Path, repo_type: str, commit_message: str) -> str:
        self.calls.append(("upload", repo_id, repo_type, folder_path.name))
        return f"address of {repo_id}"


@pytest.mark.parametrize("public", [False, True])
def test_model_and_data_are_sent_private_unless_said(hub: Path, monkeypatch: pytest.MonkeyPatch, public: bool) -> None:
    client = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", client)
    assert model_cards.push(hub, "me/sheep", "t", public=public) == ["address of me/sheep-data", "address of me/sheep"]
    assert client.calls == [
        ("token", "t"),
        ("create", "me/sheep-data", "dataset", not public),
        ("upload", "me/sheep-data", "dataset", "dataset"),
        ("create", "me/sheep", "model", not public),
        ("upload", "me/sheep", "model", "model"),
    ]


def test_a_refused_push_keeps_the_export_and_says_where_it_is(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub(OSError("no route")))
    with pytest.raises(ExportError, match="no route") as error:
        model_cards.push(hub, "me/sheep", "secret-token", public=False)
    assert str(hub) in error.value.message and "secret-token" not in str(error.value)


# The command


def call(*args: str) -> str:
    found = CliRunner().invoke(cli, ["export", *args], standalone_mode=False)
    if found.exception:
        raise found.exception
    return found.output


def test_the_command_says_where_it_is_and_how_to_use_it(run: Path, made: list[ExportSpec]) -> None:
    out = call(str(run), "--to", "ollama", "--round", "1", "--plain")
    assert "round 1" in out
    assert f"ollama create smollm2-135m-round-1 -f {run}/export/ollama-round-1-F16/Modelfile" in out
    assert "Exported round 1 in F16, by the model's size, to" in out


def test_json_is_one_object_with_the_checks(run: Path, made: list[ExportSpec]) -> None:
    out = call(str(run), "--to", "gguf", "--round", "1", "--quantise", "q8_0", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows[-1]["event"] == "Exported" and rows[-1]["checks"] == CHECKS and rows[-1]["format"] == "Q8_0"
    assert made[0].format == "Q8_0"


def test_public_without_push_is_a_mistake(run: Path, made: list[ExportSpec]) -> None:
    with pytest.raises(MinisheepError, match="--push"):
        call(str(run), "--to", "hub-folder", "--public")
    assert made == []


def test_the_help_offers_what_can_be_made() -> None:
    from minisheep.cli import export as command
    from minisheep.formats.quantise import FORMATS

    assert set(command.FORMATS) == set(FORMATS)
