"""What is judged, and by whom."""

from __future__ import annotations

from dataclasses import dataclass

from minisheep.records import Instruction, Response
from minisheep.rules.blend import Blend
from minisheep.rules.prompts import CRITERIA


@dataclass(frozen=True, slots=True)
class Pair:
    """An instruction and the answer as it would be kept (cut at its natural end)."""

    instruction: Instruction
    response: Response
    answer: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One pair of texts to judge. `id` may be any text; it becomes the `response_id` of the verdict."""

    id: str
    instruction: str
    input: str
    answer: str

    @classmethod
    def of(cls, pair: Pair) -> Asked:
        return cls(pair.response.id, pair.instruction.instruction, pair.instruction.input, pair.answer)


@dataclass(frozen=True, slots=True)
class Judge:
    """Who judges, and how.

    logits      reads the distribution over the grades 1 .. 10 after one prefill, and takes its mean: what a judge that
                writes ``grade||explanation`` would say first, without the noise of sampling
    sample      asks and parses, as the paper's code does
    pmi         what the instruction says about the answer, nats per token: needs no grades, so it works on models too
                small to give them; does not see whether the answer is true or complete, and loves an echo
    backward    what the answer says about the instruction, nats per token of the instruction
    blend       log-odds over all evidence (`rules.evidence`), weighed in an exam
    """

    name: str
    criteria: tuple[str, ...] = CRITERIA
    """Which grades are asked for; the score is the lowest of them."""
    prompt: str = "combined"
    """How a grade is asked for: one of `rules.prompts.STYLES`."""
    seed: int = 1
    round: int = 1
    """With the run's seed, what a judge that samples draws by."""
    blend: Blend | None = None
    """The weights of ``blend``; None for the others."""
