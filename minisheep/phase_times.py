"""What a phase has to do, in tokens, and what it took on this machine.

When a phase is done, its worker keeps the seconds in the cache, in one small file for each model, engine and machine
(``CACHE/phases``): seconds, the work by the settings, and when how much of it was done, of the last few times, since a
machine may have had other work. Nothing of a run stands there.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from minisheep.config import Settings
from minisheep.errors import MinisheepError
from minisheep.machine import cpu
from minisheep.machine.gpu import find_gpu
from minisheep.models.cache import cache_path, cache_root
from minisheep.rules.identity import digest
from minisheep.run.events import LATEST
from minisheep.run.files import write_json
from minisheep.run.time_left import Known, Profile
from minisheep.trainers import base

# The work of a round, in tokens. What a model will write is not known, so these lengths are assumptions; they are those
# of docs/performance.md where that has one.
INSTRUCTION = 50
"""New tokens for one kept instruction, with its number, its input and its share of the dropped ones."""
SHOT = 60
"""Tokens of a seed task in a few-shot prompt."""
LISTED = 500
"""New tokens after which a list of instructions usually ends."""
ANSWER = 150
"""Tokens of a complete answer."""
CUT = 0.8
"""Share of the allowed tokens that answers take, where that is less."""
QUESTION = 40
"""Tokens of a prompt that it does not share: an instruction."""
SOLVED = 100
"""Tokens of a seed task that is shown with its answer."""
CHECKED = 0.6
"""Share of the instructions with a constraint that have an answer to keep."""
ASKED = 30
"""Tokens of the question about one criterion, after the pair."""
REPLY = 40
"""New tokens of a judge's reply in words."""
LOGLIK = 80
"""Tokens of a held-out task with its answer."""
SPOILED = 7
"""Answers to one exam task: the right one and one for each corruption."""


@dataclass(frozen=True, slots=True)
class PhaseTokens:
    """Tokens of one phase (drawn one by one, read at once, trained on) and its number of sequences."""

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


def round_work(settings: Settings) -> list[PhaseTokens]:
    """The phases of a round, in order; the base model gets the last one too, before the first round."""
    phases = [_generate(settings), _respond(settings)]
    # Of the answers with a constraint, those that keep it are judged: about half.
    pairs = settings.answers_drawn[0] + (settings.answers_drawn[1] // 2 if settings.judges else 0)
    if settings.judges and settings.exam_tasks:
        answers = settings.exam_tasks * SPOILED // 2
        each = 2 * _judged(settings) if settings.judge == "auto" else 150
        phases.insert(0, PhaseTokens("exam", read=answers * each))
    if settings.judges or settings.filter != "score":
        drawn = pairs * REPLY * len(settings.criteria) if settings.judges and settings.judge == "sample" else 0
        prompt = QUESTION + _answer(settings)
        phases.append(PhaseTokens("judge", drawn, pairs * _judged(settings), sequences=drawn // REPLY, prompt=prompt))
    return [*phases, _train(settings), evaluation(settings)]


def evaluation(settings: Settings) -> PhaseTokens:
    sequences = settings.eval_answers + settings.eval_verifiable
    drawn = settings.eval_answers * _length(settings.eval_max_tokens)
    drawn += settings.eval_verifiable * _length(settings.eval_verifiable_max_tokens)
    return PhaseTokens("evaluate", drawn, settings.eval_tasks * LOGLIK + sequences * QUESTION, sequences=sequences)


GRADED = 0.03
"""Share that the paper's threshold of 8 keeps at 7B: 229 to 318 of 10,000 (its table of data sizes)."""
BEST = 0.3
"""Share that `--keep auto` keeps by ranks, of a judge without grades."""


def kept_examples(settings: Settings, rounds: int = 1) -> int:
    """Pairs of so many rounds to train on; of instructions with a constraint most have an answer that keeps it."""
    if not settings.judges:
        share = BEST if "density" in settings.filter else 0.9
    elif settings.keep.kind == "top":
        share = settings.keep.value
    else:
        graded = settings.keep.kind == "threshold" or settings.judge in ("logits", "sample")
        share = GRADED if graded and settings.judge != "pmi" else BEST
    share += (CHECKED - share) * settings.constraints
    return max(1, min(settings.max_examples, round(rounds * settings.per_round * share)))


def pooled(settings: Settings, number: int) -> float:
    """How many times as long as the first round the round `number` trains: it may learn from the data of all before."""
    return kept_examples(settings, number) / kept_examples(settings) if settings.strategy == "total-base" else 1.0


def _generate(settings: Settings) -> PhaseTokens:
    listed = _length(settings.generate_max_tokens, LISTED)
    drafts = -(-settings.per_round * INSTRUCTION // listed)
    prompts = -(-drafts // settings.samples_per_prompt)
    prompt = SHOT * (settings.shots + 1)
    return PhaseTokens("generate", drafts * listed, prompts * prompt, sequences=drafts, prompt=prompt)


def _respond(settings: Settings) -> PhaseTokens:
    unshown = settings.loss != "sft" and settings.prefer == "shown"
    answers = sum(settings.answers_drawn) + settings.per_round * unshown
    # Solved tasks are read once for all that share them, but every sequence holds them.
    shown = SOLVED * settings.answer_shots if settings.show == "every" else 0
    return PhaseTokens(
        "respond",
        answers * _answer(settings),
        settings.per_round * QUESTION,
        sequences=answers,
        prompt=QUESTION + shown,
    )


def _train(settings: Settings) -> PhaseTokens:
    examples = round(kept_examples(settings) / (1 - settings.mix_seeds))
    held = len(base.split(examples, settings.validation, settings.seed)[1])
    # Validation is only a forward pass: a third of the work.
    passes = settings.epochs * (examples - held + held / 3)
    if settings.loss != "sft":
        # Each with a worse answer at most; DPO reads all once more, without the adapter.
        passes = 2 * (passes + (examples / 3 if settings.loss == "dpo" else 0))
    return PhaseTokens("train", trained=round(passes * min(settings.max_length, QUESTION + _answer(settings))))


def _judged(settings: Settings) -> int:
    """Tokens read for one pair. Both questions share what comes first; likelihoods read the answer twice."""
    if settings.filter != "score":
        return QUESTION + _answer(settings)
    if settings.judge in ("pmi", "auto"):
        return QUESTION + 2 * _answer(settings)
    return QUESTION + _answer(settings) + ASKED * len(settings.criteria)


def _answer(settings: Settings) -> int:
    return _length(settings.answer_max_tokens)


def _length(most: int, usual: int = ANSWER) -> int:
    return min(usual, max(1, round(CUT * most)))


READ = 0.3
"""What a token that is read counts of one that is drawn: measured on a CPU. A GPU reads faster, but it is only used to
carry what a phase took over to other settings."""
ALIKE = 1.5
"""Up to this ratio of their work the records of two phases come alike."""


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """What a phase took that was done without a break. Times are seconds."""

    work: float
    """In tokens, by the settings that it was done with."""
    seconds: float
    """With the model loaded."""
    loading: float
    profile: Profile
    at: float
    """When it was done, in seconds since the epoch."""

    @property
    def makes_sense(self) -> bool:
        shares = [share for point in self.profile for share in point]
        numbers = self.work > 0 and 0 <= self.seconds < 1e9 > self.loading >= 0 and 0 <= self.at < LATEST
        return numbers and all(0 <= share <= 1 for share in shares)


KEPT = 5
"""Times of a phase that are kept, the newest."""
Times = Mapping[str, Sequence[PhaseTime]]
"""By phase, oldest first."""


def tokens(settings: Settings) -> dict[str, float]:
    """The work of each phase of a round, in tokens; the filter's in answers."""
    found = {work.phase: work.drawn + READ * work.read + work.trained for work in round_work(settings)}
    return {**found, "filter": float(sum(settings.answers_drawn)), "judge": found.get("judge") or settings.per_round}


def times_path(settings: Settings, sha256: str) -> Path:
    """The file for a model by the SHA-256 of its GGUF, with the engine and trainer of `settings`, on this machine."""
    gpu = find_gpu() if settings.gpu_layers else None
    machine = gpu.name if gpu is not None else f"{cpu.name(cpu.cpuinfo())}, {settings.threads or cpu.cores()} threads"
    by = {name: getattr(settings, name) for name in ("engine", "engine_url", "engine_model", "trainer", "load_in")}
    name = digest("phases", {"model": sha256, "machine": machine, "gpu_layers": settings.gpu_layers, **by})
    return cache_root() / "phases" / f"{name}.json"


def read_times(path: Path) -> dict[str, list[PhaseTime]]:
    """Without those that make no sense, and empty where there is no such file."""
    try:
        found = TypeAdapter(dict[str, list[PhaseTime]]).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}
    sensible = {name: [one for one in times if one.makes_sense] for name, times in found.items()}
    return {name: times for name, times in sensible.items() if times}


def keep_time(path: Path, phase: str, took: PhaseTime) -> None:
    """Put a phase into the file. A cache that cannot be written is left as it is."""
    with contextlib.suppress(OSError, MinisheepError, ValueError):
        cache_path("phases", path.name)
        times = read_times(path)
        times[phase] = [*times.get(phase, ()), took][-KEPT:]
        write_json(path, {name: [asdict(one) for one in some] for name, some in times.items()})


def known_times(settings: Settings, times: Times, until: float = LATEST) -> dict[str, Known]:
    """What the phases of `settings` will take: the median of what they took with these or other ones before `until`."""
    found = {}
    for phase, work in tokens(settings).items():
        took = sorted((t for t in times.get(phase, ()) if t.at < until), key=lambda t: (t.seconds / t.work, t.at))
        if took and work > 0:
            # Of two the faster one: a machine with other work is slower, never faster.
            middle = took[(len(took) - 1) // 2]
            found[phase] = Known(middle.seconds * work / middle.work, middle.loading, _profile(times[phase], work))
    return found


def profiles(settings: Settings, times: Times) -> dict[str, Profile]:
    """How the records of each phase came when it was done last."""
    return {phase: _profile(times[phase], work) for phase, work in tokens(settings).items() if times.get(phase)}


def _profile(times: Sequence[PhaseTime], work: float) -> Profile:
    """Of the newest with about as much work."""
    alike = (one.profile for one in reversed(times) if work <= ALIKE * one.work and one.work <= ALIKE * work)
    return next(alike, ())


def phase_time(
    settings: Settings, number: int, phase: str, seconds: float, loading: float, profile: Profile
) -> PhaseTime | None:
    """What there is to keep of a phase of the round `number` that took `seconds`, `loading` among them; None for what
    has no work."""
    work = tokens(settings).get(phase, 0.0) * (pooled(settings, number) if phase == "train" else 1)
    loading = min(loading, seconds)
    if work <= 0:
        return None
    return PhaseTime(work, round(seconds - loading, 3), round(loading, 3), profile, round(time.time(), 3))
