"""What an export must show before it appears; decisions on numbers alone. Pure.

Four things go wrong in exports and are not seen until somebody talks to the model: another prompt than the trained one,
an end token that nothing ends at, an adapter that was lost, and a quantisation that spoils the model. Each has a check:

- prompts: the exported template and tokenizer give the token ids that the run's engine was given.
- end: the end token is one token, and the exported file calls it an end.
- merge: the merged tensors differ from the base's by the adapter and nothing else (`merge.differences`).
- agreement: the export finds the run's own greedy answers as likely as the run did, and begins its own alike.
- ends: of the answers that the run ended by itself, at least 95 % end in the export too, which is given twice the
  tokens, since another rounding makes other words. Answers that the run itself did not end are not held against it: a
  small model with a short budget leaves many. One exception is allowed where there are few.

Agreement is decided on likelihoods because long greedy texts part at the first rounding and never meet again; the
limits were measured, see `LIMITS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

ENDS = 0.95
"""Share of the run's ended answers that must end in the export."""
MERGE = 0.5
"""Most of the adapter that may be missing from, or too much in, a merged tensor: rounding alone gives up to a tenth."""
SEAMS = 2
"""Places where a tokenizer may join a label of plain words with the user's text: before it and after it."""
SEAM_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    passed: bool
    text: str
    """What was found, with the numbers."""


@dataclass(frozen=True, slots=True)
class Limit:
    nll: float
    """Most nats per token that the run's own answers may be less likely, on the mean."""
    begins: float
    """Least share of answers whose first word is the run's."""


EXACT = Limit(0.02, 0.8)
LIMITS = {
    "F16": EXACT,
    "BF16": EXACT,
    "Q8_0": Limit(0.03, 0.75),
    "Q6_K": Limit(0.05, 0.7),
    "Q5_K_M": Limit(0.1, 0.65),
    "Q4_K_M": Limit(0.15, 0.6),
    "Q4_0": Limit(0.3, 0.5),
    "Q3_K_M": Limit(0.4, 0.5),
}
"""By format. Measured on SmolLM2-135M (a base in Q4_1, a round of 8 steps), 20 answers of 16 tokens: +0.0002 nats a
token in F16 and +0.086 in Q4_K_M, with 95 % and 90 % beginning alike. In Q4_K_M without the trained system turn: +0.168
and 75 %; in a frame of plain words: +1.15 and 20 %. The other limits are set around these and were not measured."""


def widest(*formats: str) -> str:
    """Of these formats the one that may lose most: where both sides are quantised, each in its own way."""
    known = [format if format in LIMITS else "Q3_K_M" for format in formats]
    return max(known, key=lambda format: LIMITS[format].nll)


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt on both sides. The run's answer is greedy."""

    tokens: int
    """Of the run's answer, its end token included where it ended."""
    run_nll: float
    """Summed over them, in nats; so is the next."""
    export_nll: float
    run_ended: bool
    export_ended: bool
    same_begin: bool
    """Whether the first words of both greedy answers are the same."""


def prompts(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, words: bool, piece: Callable[[int], bytes]
) -> Check:
    """Token ids of the run and of the export for each prompt. With `words` the labels are plain text: a program that
    tokenises the rendered text as a whole joins them with the user's words, so the ids may differ at the two seams."""
    same = sum(list(run) == list(export) for run, export in pairs)
    seams = sum(list(run) != list(export) and words and _differ_at_seams(run, export, piece) for run, export in pairs)
    text = f"{same} of {len(pairs)} prompts have the run's token ids"
    if seams:
        text += f", {seams} the same text cut otherwise where the frame's plain words meet the user's"
    return Check("prompts", bool(pairs) and same + seams == len(pairs), text)


def end(tokens: Sequence[int], known: bool, text: str) -> Check:
    """The end of an answer as the export's tokenizer has it, and whether the exported file calls it an end."""
    said = f"{text!r} is {len(tokens)} token(s), " + ("an end" if known else "no end") + " by the exported file"
    return Check("end token", len(tokens) == 1 and known, said)


def merge(differences: Mapping[str, float]) -> Check:
    """See `merge.differences`; by tensor."""
    worst = max(differences, key=lambda name: differences[name], default="")
    if not worst:
        return Check("merge", False, "the adapter changed nothing")
    off = f"{differences[worst]:.1%} of it"
    text = f"{len(differences)} tensors hold base + adapter; the farthest, {worst}, is off by {off}"
    return Check("merge", differences[worst] <= MERGE, text)


def agreement(asked: Sequence[Asked], format: str) -> Check:
    """Whether run and export agree on the run's greedy answers, within what a format of `LIMITS` loses."""
    limit = LIMITS[format]
    tokens = sum(a.tokens for a in asked)
    if not tokens:
        return Check("agreement", False, "the run answered no prompt with a word")
    rise = sum(a.export_nll - a.run_nll for a in asked) / tokens
    begins = sum(a.same_begin for a in asked) / len(asked)
    text = (
        f"the run's {len(asked)} greedy answers are {rise:+.4f} nats a token less likely (limit {limit.nll:g}),"
        f" {begins:.0%} of answers begin alike (at least {limit.begins:.0%})"
    )
    return Check("agreement", rise <= limit.nll and begins >= limit.begins, text)


def ends(asked: Sequence[Asked]) -> Check:
    """Whether the export ends where the run did."""
    ended = [a for a in asked if a.run_ended]
    both = sum(a.export_ended for a in ended)
    allowed = max(1, int((1 - ENDS) * len(ended)))
    text = f"{both} of the {len(ended)} answers that the run ended by itself end by themselves"
    if len(ended) < 2:
        # Nothing to count: the end token and its likelihood (agreement) are what there is to go by.
        return Check("ends", True, f"{text}; too few to decide by")
    return Check("ends", both >= len(ended) - allowed, text)


def _differ_at_seams(run: Sequence[int], export: Sequence[int], piece: Callable[[int], bytes]) -> bool:
    if b"".join(map(piece, run)) != b"".join(map(piece, export)):
        return False
    blocks = [
        block for block in SequenceMatcher(None, run, export, autojunk=False).get_opcodes() if block[0] != "equal"
    ]
    return len(blocks) <= SEAMS and all(max(b - a, d - c) <= SEAM_TOKENS for _, a, b, c, d in blocks)
