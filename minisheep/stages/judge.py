"""The model judges pairs (the paper's self-assessment), by the grades it gives or by how likely it finds the texts; and
signs of whether it is fit for that, by what it did: they need no right answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, TypeVar

from minisheep.config import GRADED
from minisheep.engines.base import Completion, Engine, GenerateRequest, LoglikRequest, Sampling, ScoreRequest, Scores
from minisheep.metrics.stats import spearman, standard_deviation
from minisheep.rules import prompts
from minisheep.rules.evidence import Blend, Likelihoods, evidence
from minisheep.rules.identity import derive_seed, six_decimals, six_digits
from minisheep.rules.templates import Prompt, Segment
from minisheep.rules.text_words import unspaced, word_count
from minisheep.run.records import Asked, Instruction, Response, Verdict


@dataclass(frozen=True, slots=True)
class Pair:
    """An instruction and the answer as it would be kept (cut at its natural end)."""

    instruction: Instruction
    response: Response
    answer: str
    asked: Asked | None = None
    """How the instruction was put, where that was not the instruction alone."""

    @property
    def question(self) -> str:
        """The instruction as the model read it, with its constraint if it carries one."""
        return self.asked.instruction if self.asked else self.instruction.instruction

    @property
    def constrained(self) -> bool:
        return self.asked is not None and bool(self.asked.constraint)


@dataclass(frozen=True, slots=True)
class JudgedText:
    """One pair of texts to judge. `id` may be any text; it becomes the `response_id` of the verdict."""

    id: str
    instruction: str
    input: str
    answer: str

    @classmethod
    def of(cls, pair: Pair) -> JudgedText:
        return cls(pair.response.id, pair.question, pair.instruction.input, pair.answer)


@dataclass(frozen=True, slots=True)
class Judge:
    """Who judges, and how.

    logits      reads the distribution over the grades 1 .. 10 after one prefill, and takes its mean: what a judge that
                writes ``grade||explanation`` would write first, without the noise of sampling
    sample      generates a reply and parses it, as the paper's code does
    pmi         what the instruction says about the answer, nats per token: needs no grades, so it works on models too
                small to give them; does not see whether the answer is true or complete, and loves an echo
    backward    what the answer says about the instruction, nats per token of the instruction
    blend       log-odds over all evidence (`rules.evidence`), weighed in an exam
    """

    name: str
    criteria: tuple[str, ...] = prompts.CRITERIA
    """The grades to ask for; the score is the lowest of them."""
    prompt: str = "combined"
    """How to ask for a grade: one of `rules.prompts.STYLES`."""
    seed: int = 1
    round: int = 1
    """With `seed`, what a judge that samples draws by."""
    blend: Blend | None = None
    """The weights of ``blend``; None for the others."""


FORWARD, BACKWARD = ("given", "alone"), ("back", "back_alone")
"""The fields of `rules.evidence.Likelihoods` that tell what the instruction says about the answer, and the reverse."""
TOGETHER = 64
"""Items in one request to the engine. It reads what texts share first, so an item is complete late in its batch: larger
batches would lose much in a crash and show no progress for minutes. This size still fills the engine."""

Text = tuple[Prompt, Prompt]
"""What stands before, and the text whose tokens are scored."""


def likelihoods(
    engine: Engine, frame: prompts.Frame, items: Sequence[JudgedText], sides: Sequence[str]
) -> Iterator[tuple[JudgedText, Likelihoods]]:
    """The log-probabilities of `sides` for each item, as they are complete.

    A text that items share (an instruction with several answers, an answer to several instructions) is scored once.
    """
    texts = [{side: _text(frame, item, side) for side in sides} for item in items]
    uses = Counter(text for some in texts for text in some.values())
    known: dict[Text, tuple[float, ...]] = {}

    def complete(numbers: Iterable[int]) -> Iterator[tuple[JudgedText, Likelihoods]]:
        """The items whose texts are all known. Forgets a text when its last item is complete."""
        for number in numbers:
            if all(text in known for text in texts[number].values()):
                yield items[number], Likelihoods(**{side: known[text] for side, text in texts[number].items()})
                for text in texts[number].values():
                    uses[text] -= 1
                    if not uses[text]:
                        del known[text]

    for start in range(0, len(items), TOGETHER):
        batch = range(start, min(start + TOGETHER, len(items)))
        requests: dict[str, Text] = {}
        waiting: dict[Text, list[int]] = {}
        whole = [number for number in batch if all(text in known for text in texts[number].values())]
        for number in batch:
            for side, text in texts[number].items():
                if text not in known:
                    if text not in waiting:
                        requests[f"{items[number].id}/{side}"] = text
                    waiting.setdefault(text, []).append(number)
        yield from complete(whole)
        for loglik in engine.loglik([LoglikRequest(name, *text) for name, text in requests.items()]):
            text = requests[loglik.id]
            known[text] = loglik.logprobs
            yield from complete(waiting.pop(text))


def _text(frame: prompts.Frame, item: JudgedText, side: str) -> Text:
    if side in FORWARD:
        answer = (Segment(item.answer),)
        if side == "alone":
            return prompts.answer_prompt(frame, "", ""), answer
        return prompts.answer_prompt(frame, item.instruction, item.input), (*answer, *frame.ending)
    question = (Segment(prompts.user_text(item.instruction, item.input)),)
    return prompts.backward_prompt(frame, item.answer if side == "back" else ""), question


SAMPLE_TOKENS = 60
"""Enough for a grade and a sentence."""
SIDES = {"pmi": FORWARD, "backward": BACKWARD, "blend": FORWARD + BACKWARD}
"""The likelihoods that each judge without grades needs."""

Result = TypeVar("Result", Scores, Completion)
Grade = tuple[float | None, dict[str, Any]]
"""A grade, None where none can be read, and the raw numbers or words behind it."""


def judge_pairs(
    engine: Engine, judge: Judge, frame: prompts.Frame, texts: Mapping[str, str], items: Sequence[JudgedText]
) -> Iterator[Verdict]:
    """A verdict for each item, as they finish."""
    if judge.name == "logits":
        requests = [
            ScoreRequest(f"{item.id}/{criterion}", _prompt(judge, frame, texts, criterion, item), prompts.LABELS)
            for item in items
            for criterion in judge.criteria
        ]
        yield from _graded(judge, engine.score(requests), _read_distribution)
    elif judge.name == "sample":
        yield from _graded(judge, engine.generate(_sampled(judge, frame, texts, items)), _read_reply)
    else:
        for item, logs in likelihoods(engine, frame, items, SIDES[judge.name]):
            yield verdict_by_likelihood(judge, item, logs)


def verdict_by_likelihood(judge: Judge, item: JudgedText, logs: Likelihoods) -> Verdict:
    """The verdict of a judge without grades. The score is None for texts without tokens."""
    score: float | None
    if judge.name == "blend":
        assert judge.blend is not None
        signs = evidence(item.instruction, item.input, item.answer, logs)
        raw: dict[str, Any] = {name: six_digits(value) for name, value in (signs or {}).items()}
        score = judge.blend.score(signs) if signs else None
    else:
        forward = judge.name == "pmi"
        score = logs.forward if forward else logs.backward
        given, alone = (logs.answer, logs.alone) if forward else (logs.back, logs.back_alone)
        raw = {"given": _mean(given), "alone": _mean(alone), "tokens": len(given)}
    return Verdict(item.id, judge.name, None, None, None if score is None else six_digits(score), raw)


def _graded(judge: Judge, results: Iterator[Result], read: Callable[[Result], Grade]) -> Iterator[Verdict]:
    """Verdicts from results whose ids end in a criterion, each as soon as all of its criteria are there."""
    waiting: dict[str, dict[str, Grade]] = {}
    for result in results:
        item, _, criterion = result.id.rpartition("/")
        grades = waiting.setdefault(item, {})
        grades[criterion] = read(result)
        if len(grades) == len(judge.criteria):
            del waiting[item]
            yield _verdict(item, judge, grades)


def _verdict(item: str, judge: Judge, by_criterion: Mapping[str, Grade]) -> Verdict:
    grades = {c: None if (grade := by_criterion[c][0]) is None else six_digits(grade) for c in judge.criteria}
    known = [grade for grade in grades.values() if grade is not None]
    score = min(known) if len(known) == len(grades) else None
    raw = {c: by_criterion[c][1] for c in judge.criteria}
    return Verdict(item, judge.name, grades.get("quality"), grades.get("following"), score, raw)


def _sampled(
    judge: Judge, frame: prompts.Frame, texts: Mapping[str, str], items: Sequence[JudgedText]
) -> list[GenerateRequest]:
    sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=SAMPLE_TOKENS, stop=("\n", *frame.stop))
    return [
        GenerateRequest(
            f"{item.id}/{criterion}",
            _prompt(judge, frame, texts, criterion, item, explain=True),
            sampling,
            derive_seed(judge.seed, judge.round, "judge", item.id, criterion),
        )
        for item in items
        for criterion in judge.criteria
    ]


def _prompt(
    judge: Judge,
    frame: prompts.Frame,
    texts: Mapping[str, str],
    criterion: str,
    item: JudgedText,
    explain: bool = False,
) -> Prompt:
    pair = item.instruction, item.input, item.answer
    return prompts.judge_prompt(frame, texts, judge.prompt, criterion, *pair, explain=explain)


def _read_distribution(scores: Scores) -> Grade:
    probabilities = [six_digits(p) for p in scores.probabilities]
    mass = six_digits(sum(scores.probabilities))
    return expected_grade(scores.probabilities), {"probabilities": probabilities, "mass": mass}


def _read_reply(completion: Completion) -> Grade:
    return prompts.parse_grade(completion.text), {"reply": completion.text}


def expected_grade(probabilities: Sequence[float]) -> float | None:
    """The mean grade over the labels 1 .. 10, given that the reply is one of them; None without any mass on them."""
    mass = sum(probabilities)
    if mass <= 0:
        return None
    return sum(grade * p for grade, p in enumerate(probabilities, 1)) / mass


def _mean(values: Sequence[float]) -> float | None:
    return six_digits(sum(values) / len(values)) if values else None


# Whether the judge of a round is fit for its work.
AGAIN, AGAIN_SHARE = 30, 0.1
"""Pairs that are judged a second time, and the share of the round that they are at most, since judging takes time."""
LEAST_PAIRS = 10
"""With fewer pairs the signs are measured but no finding is made of them."""
TOP_GRADE = 9.5
SATURATED, UNREADABLE, FLAT, LONGER, DISAGREES = 0.5, 0.5, 0.05, 0.6, 0.4
"""When a sign is a finding: the share of top grades and of invalid mass above it, the spread of grades below it, the
rank correlation with length beyond it, the one with itself below it."""

OTHER_STYLE = {"simple": "combined", "combined": "simple", "icl": "combined"}


def judge_health(
    engine: Engine,
    judge: Judge,
    frame: prompts.Frame,
    texts: Mapping[str, str],
    pairs: Sequence[Pair],
    verdicts: Sequence[Verdict],
) -> dict[str, Any]:
    """The signs of a round, JSON-ready; None where one is undefined (no grades, no spread, too few pairs).

    judged, scored  pairs with a verdict, and those of them with a score
    saturation      share of scores at the top grade: a judge that gives its top grade to everything ranks nothing
    spread          standard deviation of the scores
    invalid         probability on no grade at all (logits) or share of unreadable replies (sample)
    length          rank correlation of score and number of words
    agreement       rank correlation with its own scores when asked in other words, over `agreement_pairs`
    """
    items = {pair.response.id: JudgedText.of(pair) for pair in pairs}
    scores = {v.response_id: v.score for v in verdicts if v.score is not None and v.response_id in items}
    values = list(scores.values())
    graded = judge.name in GRADED
    words = [float(word_count(items[id_].answer)) for id_ in scores]
    most = min(AGAIN, int(AGAIN_SHARE * len(scores)))
    again, count = agreement(engine, judge, frame, texts, [items[id_] for id_ in scores], scores, most)
    return {
        "judge": judge.name,
        "judged": len(verdicts),
        "scored": len(scores),
        "saturation": six_decimals(fmean([float(v >= TOP_GRADE) for v in values])) if graded and values else None,
        "spread": six_decimals(standard_deviation(values)) if len(values) > 1 else None,
        "invalid": _invalid(judge, verdicts),
        "length": rank_correlation(values, words),
        "agreement": again,
        "agreement_pairs": count,
    }


def agreement(
    engine: Engine,
    judge: Judge,
    frame: prompts.Frame,
    texts: Mapping[str, str],
    items: Sequence[JudgedText],
    first_scores: Mapping[str, float],
    most: int = AGAIN,
) -> tuple[float | None, int]:
    """Judge `most` of the items again in other words. Returns the rank correlation with `first_scores`, and n.

    A judge of grades gets another prompt style; for others the instruction gets a lead-in without meaning. None where
    the correlation is undefined.
    """
    chosen = sorted(items, key=lambda item: derive_seed(judge.seed, judge.round, "again", item.id))[:most]
    if judge.name in GRADED:
        judge = replace(judge, prompt=OTHER_STYLE[judge.prompt])
    else:
        lead = frame.words.lead_in if unspaced(frame.words.lead_in) else f"{frame.words.lead_in} "
        chosen = [replace(item, instruction=lead + item.instruction) for item in chosen]
    second = {v.response_id: v.score for v in judge_pairs(engine, judge, frame, texts, chosen) if v.score is not None}
    ids = [item.id for item in chosen if item.id in second]
    return rank_correlation([first_scores[id_] for id_ in ids], [second[id_] for id_ in ids]), len(ids)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's; None for fewer than three pairs or no spread on a side."""
    try:
        return six_decimals(spearman(first, second)) if len(first) > 2 else None
    except ValueError:
        return None


def findings(health: Mapping[str, Any]) -> list[str]:
    """What is wrong with a judge, a sentence each; empty for a healthy one."""
    if health["scored"] < LEAST_PAIRS:
        return []
    name = health["judge"]
    sentences = []
    if (top := health["saturation"]) is not None and top > SATURATED:
        sentences.append(
            f"{name} gives its top grade to {top:.0%} of the answers, so its scores rank little; --judge-prompt icl or"
            " --keep top:0.3 may help in a new run."
        )
    if name in GRADED and (spread := health["spread"]) is not None and spread < FLAT:
        sentences.append(f"{name} gives nearly the same grade to all answers (standard deviation {spread:.3f}).")
    if (invalid := health["invalid"]) is not None and invalid > UNREADABLE:
        sentences.append(f"{name} mostly replies without a grade ({invalid:.0%}): it does not understand the question.")
    if (length := health["length"]) is not None and abs(length) > LONGER:
        better = "longer" if length > 0 else "shorter"
        sentences.append(f"{name} scores mostly by length: {better} is better ({length:+.2f}).")
    again = health["agreement"]
    if again is not None and health["agreement_pairs"] >= LEAST_PAIRS and again < DISAGREES:
        sentences.append(f"{name} disagrees with itself when asked in other words (rank correlation {again:.2f}).")
    return sentences


def _invalid(judge: Judge, verdicts: Sequence[Verdict]) -> float | None:
    if judge.name not in GRADED or not verdicts:
        return None
    if judge.name == "sample":
        return six_decimals(fmean([float(v.score is None) for v in verdicts]))
    return six_decimals(fmean([1 - v.raw[criterion]["mass"] for v in verdicts for criterion in judge.criteria]))
