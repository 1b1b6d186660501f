"""Every call that we make of Unsloth exists in the releases that the extra `gpu` allows, as they were recorded."""

from __future__ import annotations

from pathlib import Path

from unsloth_signatures import BODY_KEYWORDS, PLACES, THROUGH, keywords_of_ours, recorded

from minisheep.trainers import choose_trainer, unsloth

OURS = keywords_of_ours(Path(unsloth.__file__).read_text(encoding="utf-8"))


def test_every_function_that_we_call_is_recorded() -> None:
    assert set(OURS) == set(PLACES) == set(recorded()["functions"])


def test_every_keyword_that_we_pass_exists() -> None:
    record = recorded()
    for function, keywords in OURS.items():
        known = {*record["functions"][function], *(record["through_kwargs"] if "pretrained" in function else ())}
        assert set(keywords) <= known, function


def test_what_goes_through_kwargs_is_taken_out_of_them() -> None:
    assert set(recorded()["through_kwargs"]) == set(THROUGH)


def test_the_forward_pass_takes_what_we_give_it() -> None:
    record = recorded()
    assert record["body"] == list(BODY_KEYWORDS) and record["packed"] is True
    assert record["inherits"] == ["FastLlamaModel"]


def test_the_recorded_releases_are_those_of_the_extra() -> None:
    first, beyond = choose_trainer.SUPPORTED["unsloth"]
    assert recorded()["releases"][0] == first
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"unsloth>={first},<{beyond}"' in text and f'"unsloth_zoo>={first},<{beyond}"' in text
