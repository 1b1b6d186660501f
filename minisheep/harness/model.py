"""The harness's interface of a model, on our engine."""

from __future__ import annotations

from typing import Any

from lm_eval.api.model import LM

from minisheep.harness import frames
from minisheep.harness.asking import Asker


class EngineLM(LM):  # type: ignore[misc]
    """`lm_eval.api.model.LM` that hands whole batches to an engine.

    `greedy` says that the task asks whether a continuation is the greedy one, which costs a generation each. The
    harness's response cache (SQLite with pickled values) is never given to it.
    """

    def __init__(self, asker: Asker, *, greedy: bool) -> None:
        super().__init__()
        self._asker = asker
        self._greedy = greedy

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        return self._asker.generate([(*r.args[:2], (r.task_name, r.doc_id, r.idx)) for r in requests])

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._asker.loglik([r.args[:2] for r in requests], greedy=self._greedy)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        return self._asker.rolling([r.args[0] for r in requests])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as `frames.chat` marks it; an answer that was begun needs no generation prompt and gets none."""
        return frames.chat(chat_history)

    @property
    def tokenizer_name(self) -> str:
        return "minisheep"
