"""How much a round has to do, in tokens, before any was written. Pure.

What a model will write is not known, so lengths are assumptions, each with its name here; they are those of
docs/performance.md where that has one. A token costs the same whatever it is about, so only these lengths matter.
"""

from __future__ import annotations

from dataclasses import dataclass

from minisheep.config import Settings
from minisheep.trainers import tokens

INSTRUCTION = 50
"""New tokens that a kept instruction costs, with its number, its input and what was dropped beside it."""
SHOT = 60
"""Tokens of a seed task in a few-shot prompt."""
LISTED = 500
"""New tokens after which a list of instructions mostly ends by itself."""
ANSWER = 150
"""Tokens of an answer that nothing cuts off."""
CUT = 0.8
"""Of the tokens allowed, what answers take where that is less."""
QUESTION = 40
"""Tokens of a prompt that it shares with no other: an instruction."""
ASKED = 30
"""Tokens that a grade of one criterion is asked with, behind the pair."""
REPLY = 40
"""New tokens of a judge that replies in words."""
LOGLIK = 80
"""Tokens of a held-out task with its answer."""
SPOILED = 7
"""Answers to a task of the exam: the right one, and one for each way of spoiling."""


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens of one phase: drawn one after the other, read at once, trained on; and how many sequences there are."""

    phase: str
    drawn: int = 0
    read: int = 0
    trained: int = 0
    sequences: int = 0
    prompt: int = QUESTION
    """Tokens before a sequence's first drawn one."""

    @property
    def new(self) -> float:
        """Tokens drawn for a sequence."""
        return self.drawn / max(1, self.sequences)


def round_work(settings: Settings) -> list[Work]:
    """The phases of a round, in order; that of measuring is also what the base model gets before the first."""
    found = [_generate(settings), _respond(settings)]
    pairs = settings.per_round * settings.answers
    if settings.judges and settings.exam_tasks:
        answers = settings.exam_tasks * SPOILED // 2
        found.insert(0, Work("exam", read=answers * (_judged(settings) * 2 if settings.judge == "auto" else 150)))
    if settings.judges or settings.filter != "score":
        drawn = pairs * REPLY * len(settings.criteria) if settings.judges and settings.judge == "sample" else 0
        found.append(
            Work(
                "judge", drawn, pairs * _judged(settings), sequences=drawn // REPLY, prompt=QUESTION + _answer(settings)
            )
        )
    return [*found, _train(settings), evaluation(settings)]


def evaluation(settings: Settings) -> Work:
    sequences = settings.eval_answers + settings.eval_verifiable
    drawn = settings.eval_answers * _length(settings.eval_max_tokens)
    drawn += settings.eval_verifiable * _length(settings.eval_verifiable_max_tokens)
    return Work("evaluate", drawn, settings.eval_tasks * LOGLIK + sequences * QUESTION, sequences=sequences)


def kept_examples(settings: Settings) -> int:
    """Pairs that a round trains on. The paper's threshold keeps about three tenths, as `top:0.3` does."""
    if settings.judges:
        share = settings.keep.value if settings.keep.kind == "top" else 0.3
    else:
        share = 0.3 if "density" in settings.filter else 0.9
    return max(1, min(settings.max_examples, round(settings.per_round * share)))


def example_tokens(settings: Settings) -> int:
    return min(settings.max_length, QUESTION + _answer(settings))


def _generate(settings: Settings) -> Work:
    listed = _length(settings.generate_max_tokens, LISTED)
    drafts = -(-settings.per_round * INSTRUCTION // listed)
    prompts = -(-drafts // settings.samples_per_prompt)
    prompt = SHOT * (settings.shots + 1)
    return Work("generate", drafts * listed, prompts * prompt, sequences=drafts, prompt=prompt)


def _respond(settings: Settings) -> Work:
    answers = settings.per_round * settings.answers
    return Work("respond", answers * _answer(settings), settings.per_round * QUESTION, sequences=answers)


def _train(settings: Settings) -> Work:
    examples = kept_examples(settings)
    held = len(tokens.split(examples, settings.validation, settings.seed)[1])
    # Validation is a forward pass alone: a third of the work.
    passes = settings.epochs * (examples - held + held / 3)
    return Work("train", trained=round(passes * example_tokens(settings)))


def _judged(settings: Settings) -> int:
    """Tokens read for one pair: what both questions share is read once; likelihoods read the answer twice."""
    if settings.filter != "score":
        return QUESTION + _answer(settings)
    if settings.judge in ("pmi", "auto"):
        return QUESTION + 2 * _answer(settings)
    return QUESTION + _answer(settings) + ASKED * len(settings.criteria)


def _answer(settings: Settings) -> int:
    return _length(settings.answer_max_tokens)


def _length(most: int, usual: int = ANSWER) -> int:
    return min(usual, max(1, round(CUT * most)))
