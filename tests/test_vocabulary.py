"""The tokenizer of a real GGUF. What is special must stay apart from what is data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import real_models

from minisheep.errors import ModelFileError
from minisheep.rules.templates import Prompt, Segment

pytestmark = pytest.mark.model

TURN: Prompt = (
    Segment("<|im_start|>user\n", special=True),
    Segment("Count to 10, café 🐑!"),
    Segment("<|im_end|>\n<|im_start|>assistant\n", special=True),
)


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[object]:
    from minisheep.engines.native import Vocabulary

    with Vocabulary.from_file(real_models.smollm2()) as found:
        yield found


def test_special_text_becomes_control_tokens_and_data_does_not(vocabulary) -> None:
    marker = "<|im_end|>"
    (special,) = vocabulary.encode((Segment(marker, special=True),), bos=False)
    assert vocabulary.is_control(special) and vocabulary.is_end(special) and vocabulary.piece(special) == b""
    for text in (marker, "<|endoftext|>", f"a{marker}b", "<|im_start|>system\n"):
        ids = vocabulary.encode((Segment(text),), bos=False)
        assert not any(map(vocabulary.is_control, ids))
        assert vocabulary.decode(ids) == text


def test_a_prompt_is_the_sum_of_its_segments(vocabulary) -> None:
    whole = vocabulary.encode(TURN, bos=True)
    parts = vocabulary.encode(TURN[:1], bos=True)
    for segment in TURN[1:]:
        parts += vocabulary.encode((segment,), bos=False, after=parts[-1])
    assert whole == parts


def test_text_comes_back_from_its_tokens(vocabulary) -> None:
    text = "Count to 10, café 🐑!\n\n\ttab\x00nul"
    assert vocabulary.decode(vocabulary.encode((Segment(text),), bos=False)) == text


def test_every_token_has_bytes_of_any_length(vocabulary) -> None:
    longest = max(len(vocabulary.piece(token)) for token in range(vocabulary.size))
    assert longest > 32  # longer than the first buffer
    assert vocabulary.size == 49152


def test_a_lone_surrogate_is_replaced(vocabulary) -> None:
    assert vocabulary.decode(vocabulary.encode((Segment("a\ud800b"),), bos=False)) == "a?b"


def test_bos_is_put_first_only_where_the_vocabulary_asks_for_it_and_once(vocabulary, monkeypatch) -> None:
    assert not vocabulary.add_bos
    plain = vocabulary.encode((Segment("Hi"),), bos=True)
    assert plain == vocabulary.encode((Segment("Hi"),), bos=False)
    monkeypatch.setattr(vocabulary, "add_bos", True)
    assert vocabulary.encode((Segment("Hi"),), bos=True) == [vocabulary.bos, *plain]
    assert vocabulary.encode(TURN, bos=True).count(vocabulary.bos) == 2  # one for each turn, none more


def test_nothing_is_no_tokens(vocabulary) -> None:
    assert vocabulary.encode((), bos=True) == vocabulary.encode((Segment(""),), bos=True) == []
    assert vocabulary.start == vocabulary.bos


def test_a_missing_file_is_an_error_of_the_user(tmp_path: Path) -> None:
    from minisheep.engines.native import Vocabulary

    with pytest.raises(ModelFileError):
        Vocabulary.from_file(tmp_path / "none.gguf")


@pytest.mark.parametrize("content", [b"", b"not a model", b"GGUF\x03\x00\x00\x00"], ids=["empty", "other", "truncated"])
def test_a_corrupt_file_is_an_error_of_the_user(tmp_path: Path, content: bytes) -> None:
    from minisheep.engines.native import Vocabulary

    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        Vocabulary.from_file(path)


def test_closing_twice_is_fine() -> None:
    from minisheep.engines.native import Vocabulary

    vocabulary = Vocabulary.from_file(real_models.smollm2())
    vocabulary.close()
    vocabulary.close()
