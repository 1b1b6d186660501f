"""A soup of rounds: exactly the weighted sum of their adapters, measured like a round, compared with base and best."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from export_runs import save_adapter
from tiny_runs import minisheep, tiny_run

from minisheep import adapter_soup
from minisheep.cli.main import cli
from minisheep.errors import CorruptRunError, ModelFileError, UnsupportedModelError, UsageError
from minisheep.formats.adapter_sum import summed, write_sum
from minisheep.formats.lora_gguf import effective_alpha, read_config, read_tensors
from minisheep.run.files import read_json

LAYERS = ("layers.0.self_attn.q_proj", "layers.1.mlp.down_proj")
SIZES = {"layers.0.self_attn.q_proj": (24, 16), "layers.1.mlp.down_proj": (16, 40)}


def random_adapter(seed: int, rank: int) -> dict[str, np.ndarray[Any, Any]]:
    chance = np.random.default_rng(seed)
    found = {}
    for layer in LAYERS:
        rows, columns = SIZES[layer]
        name = f"base_model.model.model.{layer}"
        found[f"{name}.lora_A.weight"] = chance.standard_normal((rank, columns)).astype(np.float32)
        found[f"{name}.lora_B.weight"] = chance.standard_normal((rows, rank)).astype(np.float32)
    return found


def change(folder: Path, layer: str) -> np.ndarray[Any, Any]:
    """What an adapter adds to a layer's weight, in float64."""
    config, tensors = read_config(folder), read_tensors(folder)
    name = f"base_model.model.model.{layer}"
    a, b = (tensors[f"{name}.lora_{side}.weight"].astype(np.float64) for side in "AB")
    return np.asarray(effective_alpha(config) / config["r"] * (b @ a))


def adapters(path: Path) -> list[Path]:
    """Three of other ranks, alphas and kinds of scale."""
    given: tuple[dict[str, Any], ...] = (
        {"r": 2, "lora_alpha": 8},
        {"r": 4, "lora_alpha": 6.0, "use_rslora": True},
        {"r": 3, "lora_alpha": 3},
    )
    return [save_adapter(path / str(n), random_adapter(n, c["r"]), **c) for n, c in enumerate(given)]


@pytest.mark.parametrize("weights", [(0.5, 0.25, 0.25), (1.0, 1.0, 1.0), (0.9, -0.3, 0.0)])
def test_the_sum_is_exactly_that_of_what_the_adapters_do(tmp_path: Path, weights: tuple[float, ...]) -> None:
    parts = adapters(tmp_path)
    write_sum(parts, weights, tmp_path / "sum")
    config = read_config(tmp_path / "sum")
    assert (config["r"], effective_alpha(config) / config["r"]) == (9, 1.0)
    for layer in LAYERS:
        expected = sum(weight * change(part, layer) for weight, part in zip(weights, parts, strict=True))
        assert np.abs(change(tmp_path / "sum", layer) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_averaged_matrices_would_be_another_adapter(tmp_path: Path) -> None:
    one, other = (random_adapter(n, 2) for n in (1, 2))
    layer = f"base_model.model.model.{LAYERS[0]}"
    found = summed([one, other], [0.5, 0.5])
    exact = found[f"{layer}.lora_B.weight"] @ found[f"{layer}.lora_A.weight"]
    a, b = ((one[f"{layer}.lora_{s}.weight"] + other[f"{layer}.lora_{s}.weight"]) / 2 for s in "AB")
    assert np.abs(exact - b @ a).max() > 0.1


def test_adapters_of_other_layers_have_no_sum(tmp_path: Path) -> None:
    whole, less = random_adapter(1, 2), dict(list(random_adapter(2, 2).items())[:2])
    with pytest.raises(ModelFileError, match="no sum"):
        summed([whole, less], [1, 1])
    wider = {name: np.zeros((t.shape[0] + 1, t.shape[1] + 1), np.float32) for name, t in whole.items()}
    with pytest.raises(ModelFileError, match="different sizes"):
        summed([whole, wider], [1, 1])
    odd = save_adapter(tmp_path / "odd", whole, use_dora=True)
    with pytest.raises(UnsupportedModelError):
        write_sum([odd, odd], [1, 1], tmp_path / "sum")
    assert not (tmp_path / "sum").exists()


def finished(path: Path, **given: Any) -> Path:
    return tiny_run(path, **given)[0].path


def test_a_soup_is_measured_like_a_round_and_compared(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    before = {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    said = minisheep("soup", str(run), "--rounds", "1,2", check=True).stdout
    folder = run / "soup-1+2"
    made, round_two = read_json(folder / "metrics.json"), read_json(run / "round-2" / "metrics.json")
    assert made["model"].keys() == round_two["model"].keys()
    assert (made["rounds"], made["weights"]) == ([1, 2], [0.5, 0.5])
    best = read_json(run / "manifest.json")["phases"]["round-2/evaluate"]["best"]
    assert [d["against"] for d in made["decisions"]] == list(dict.fromkeys((0, best)))
    assert "The soup of rounds 1 and 2" in said and "the base model" in said and " soup ┃" in said
    assert {p.name for p in folder.iterdir()} == {
        "soup.json", "adapter", "adapter.gguf", "answers.jsonl", "verifiable.jsonl", "metrics.json",
    }  # fmt: skip
    assert all(path.read_bytes() == data for path, data in before.items())


def test_the_same_command_shows_it_again_or_goes_on(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    died = minisheep("soup", str(run), "--rounds", "1,2", fault="abort:soup:3")
    folder = run / "soup-1+2"
    assert died.returncode == 3 and (folder / "adapter.gguf").exists() and not (folder / "metrics.json").exists()
    first = json.loads(minisheep("soup", str(run), "--rounds", "1,2", "--json", check=True).stdout.splitlines()[-1])
    again = minisheep("soup", str(run), "--rounds", "1,2", "--json", check=True).stdout.splitlines()
    assert len(again) == 1 and json.loads(again[0]) == first
    assert first["event"] == "Soup" and first["folder"] == str(folder)
    others = minisheep("soup", str(run), "--rounds", "1,2", "--weights", "1,2")
    assert others.returncode == 2 and "--out" in others.stderr
    minisheep("soup", str(run), "--rounds", "1,2", "--weights", "1,2", "--out", str(tmp_path / "other"), check=True)
    assert (tmp_path / "other" / "adapter.gguf").read_bytes() != (folder / "adapter.gguf").read_bytes()
    for damage in ('{"model": {}}', '{"model": {}, "decisions": [{"against": 0, "outcome": "a", "measures": {}}]}'):
        (folder / "metrics.json").write_text(damage)
        refused = CliRunner().invoke(cli, ["soup", str(run), "--rounds", "1,2"]).exception
        assert isinstance(refused, CorruptRunError) and "Delete it" in refused.fix and "decisions" in refused.message
    (folder / "metrics.json").unlink()
    mended = minisheep("soup", str(run), "--rounds", "1,2", "--json", check=True).stdout.splitlines()
    assert json.loads(mended[-1]) == first


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--rounds", "1"], "two rounds"),
        (["--rounds", "1,1"], "two rounds"),
        (["--rounds", "1,7"], "--rounds 7"),
        (["--rounds", "1,base"], "--rounds base"),
        (["--rounds", "1,2", "--weights", "1"], "--weights 1"),
        (["--rounds", "1,2", "--weights", "0,0"], "--weights 0,0"),
        (["--rounds", "1,2", "--weights", "1,nan"], "--weights 1,nan"),
    ],
)
def test_a_soup_that_cannot_be_is_one_line(tmp_path: Path, given: list[str], named: str) -> None:
    run = finished(tmp_path / "run")
    refused = CliRunner().invoke(cli, ["soup", str(run), *given]).exception
    assert isinstance(refused, UsageError) and named in str(refused)
    assert not list(run.glob("soup-*"))


@pytest.mark.parametrize(
    "change",
    [
        lambda made: {},
        lambda made: {**made, "decisions": 3},
        lambda made: {**made, "decisions": [{"against": 0}]},
        lambda made: {**made, "decisions": [{**made["decisions"][0], "outcome": []}]},
        lambda made: {**made, "model": {"held_out_nll": "low"}},
    ],
)
def test_a_strangers_result_is_read_by_its_shape(soup_made: Path, change: Any) -> None:
    """What a folder says was measured may be anybody's; without this it ended in a traceback."""
    metrics = soup_made / "soup-1+2" / "metrics.json"
    whole = metrics.read_bytes()
    metrics.write_text(json.dumps(change(json.loads(whole))))
    refused = CliRunner().invoke(cli, ["soup", str(soup_made), "--rounds", "1,2"]).exception
    metrics.write_bytes(whole)
    assert isinstance(refused, CorruptRunError) and str(metrics) in str(refused)


def test_a_measure_of_another_version_is_left_out(soup_made: Path) -> None:
    made = adapter_soup.choose(str(soup_made), "1,2")
    change = {"value": 1.0, "low": 0.5, "high": 1.5}
    said = adapter_soup.sentence(made, [{"against": 0, "outcome": "gain", "measures": {"charm": change}}])
    assert said == "The soup of rounds 1 and 2 is better than the base model."


def test_its_commands_fit_a_shell_and_need_a_model(soup_made: Path, tmp_path: Path) -> None:
    show = ["soup", str(soup_made), "--rounds", "1,2"]
    assert "llama-cli" not in CliRunner().invoke(cli, show).output
    model = soup_made / "model.json"
    before = model.read_bytes()
    model.write_text(json.dumps({**json.loads(before), "gguf_sha256": "0" * 64, "inference_gguf": "/m/a model.gguf"}))
    said = CliRunner().invoke(cli, show).output.splitlines()
    model.write_bytes(before)
    (line,) = (line for line in said if line.startswith("Use:"))
    assert shlex.split(line)[1:4] == ["llama-cli", "-m", "/m/a model.gguf"]
    assert shlex.split(line)[5:] == [str(soup_made / "soup-1+2" / "adapter.gguf")]


@pytest.fixture(scope="module")
def soup_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = finished(tmp_path_factory.mktemp("a soup") / "my run")
    minisheep("soup", str(run), "--rounds", "1,2", check=True)
    return run


def test_the_decision_is_the_rounds_own(tmp_path: Path) -> None:
    """Measured like round 2 itself, a soup is to base and best what round 2 is."""
    run, _ = tiny_run(tmp_path / "run")
    metrics = {m["round"]: m for m in run.metrics}
    own = metrics[2]["decision"]
    found = adapter_soup.compared(metrics[2]["model"], metrics, own["against"])
    assert found[-1] == {name: own[name] for name in ("against", "outcome", "measures")}
    assert [d["against"] for d in adapter_soup.compared(metrics[2]["model"], metrics, None)] == [0]
    soup = adapter_soup.Soup(run, (1, 2, 3), (1, 1, 1), tmp_path)
    assert adapter_soup.sentence(soup, found).startswith("The soup of rounds 1, 2 and 3 is")


@pytest.mark.model
def test_a_real_soup_is_the_sum_in_the_form_that_llama_cpp_loads(tmp_path: Path) -> None:
    import llama_cpp
    import real_models

    from minisheep.engines import native
    from minisheep.formats.gguf_header import read_header
    from minisheep.formats.lora_gguf import convert_adapter
    from minisheep.formats.merge import Lora

    gguf = real_models.smollm2()
    header = read_header(gguf)
    widths = {"q_proj": "attn_q", "down_proj": "ffn_down"}
    shapes = {t.name: t.shape[::-1] for t in header.tensors}
    parts = []
    for number, (rank, alpha) in enumerate(((8, 16), (4, 2))):
        chance, tensors = np.random.default_rng(number), {}
        for layer, (name, place) in enumerate((("q_proj", "self_attn"), ("down_proj", "mlp"))):
            rows, columns = shapes[f"blk.{layer}.{widths[name]}.weight"]
            key = f"base_model.model.model.layers.{layer}.{place}.{name}"
            tensors[f"{key}.lora_A.weight"] = chance.standard_normal((rank, columns)).astype(np.float32)
            tensors[f"{key}.lora_B.weight"] = chance.standard_normal((rows, rank)).astype(np.float32) / 50
        parts.append(save_adapter(tmp_path / f"part-{number}", tensors, r=rank, lora_alpha=alpha))
    write_sum(parts, (0.7, 0.3), tmp_path / "sum")
    loras = []
    for folder in (*parts, tmp_path / "sum"):
        output = tmp_path / f"{folder.name}.gguf"
        convert_adapter(folder, gguf, output)
        loras.append(Lora.open(output, header))
    for name in loras[-1].pairs():
        deltas = []
        for lora in loras:
            pair = lora.matrices(name)
            assert pair is not None
            a, b = (matrix.astype(np.float64) for matrix in pair)
            deltas.append(lora.scale * (b @ a))
        expected = 0.7 * deltas[0] + 0.3 * deltas[1]
        assert np.abs(deltas[2] - expected).max() <= 1e-5 * np.abs(expected).max()
    model = native.load_model(gguf)
    loaded = llama_cpp.llama_adapter_lora_init(model, str(tmp_path / "sum.gguf").encode())
    assert loaded
    llama_cpp.llama_adapter_lora_free(loaded)
    llama_cpp.llama_model_free(model)
