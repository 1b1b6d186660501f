"""Whether everything that a run will ask fits the context, before it asks anything.

A seed task that is too long would end the run by chance of the draw, in any round, when neither the seeds nor the
context may be changed any more. Pure: the model's tokenizer comes as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from minisheep.config import Settings
from minisheep.data.seed_tasks import SeedTask
from minisheep.errors import SeedFileError, UsageError
from minisheep.rules.heuristics import LONGEST
from minisheep.rules.ifeval import VerifiableItem
from minisheep.rules.prompts import CRITERIA, Frame, answer_prompt, judge_prompt, task_list_prompt
from minisheep.rules.templates import Prompt, Template
from minisheep.rules.wording import ENGLISH, Wording
from minisheep.stages import exam

Count = Callable[[Prompt], int]
"""Tokens of a prompt."""
STEP = 256
"""A context is proposed in multiples of this."""
TOKENS_A_WORD = 2.0
"""Of an instruction in English; with the limit of words in the rules it bounds what the model may ask itself."""
NAMED = 10
"""Seed tasks that a message names."""


class Lengths:
    """What a run of `settings` asks, measured by `count` against the `room` of one sequence."""

    def __init__(
        self,
        settings: Settings,
        template: Template,
        kind: str,
        texts: Mapping[str, str],
        count: Count,
        words: Wording = ENGLISH,
    ):
        self._settings, self._template, self._texts, self._count = settings, template, texts, count
        by_template = Frame(template, words)
        self._frames = [Frame(None, words), by_template] if kind == "base" else [by_template]

    def check(self, seeds: Sequence[SeedTask], items: Sequence[VerifiableItem], room: int) -> list[str]:
        """Warnings. Raises `errors.SeedFileError` naming the seed tasks that are too long, and `errors.UsageError` for
        a context that is too small for any."""
        long = {seed.id: size for seed in seeds if (size := self._alone(seed)) > room}
        shown = [seed for seed in seeds if not seed.held_out and seed.id not in long]
        shown.sort(key=lambda seed: (self._count(answer_prompt(Frame(None), seed.instruction, seed.input)), seed.id))
        need = 0
        while shown and (size := self._list_of(shown[-self._settings.shots :])) > room:
            need = max(need, size)
            if len(shown) <= self._settings.shots:
                raise UsageError(
                    f"A list of {self._settings.shots} seed tasks takes {size} tokens, and {self._named(room)} is too"
                    " small for it. Nothing was generated.",
                    f"{self._wider(room, size + self._settings.generate_max_tokens)}, or lower --shots.",
                )
            longest = shown.pop()
            long[longest.id] = size
        if long:
            wider = self._wider(room, max(need, *long.values()))
            raise _too_long([seed for seed in seeds if seed.id in long], long, self._named(room), wider)
        fixed = max((self._count(answer_prompt(self._frames[-1], item.prompt, "")) + 1 for item in items), default=0)
        if fixed > room:
            raise UsageError(
                f"A prompt of the evaluation takes {fixed} tokens, and {self._named(room)} is too small for it. Nothing"
                " was generated.",
                f"{self._wider(room, fixed + self._settings.eval_verifiable_max_tokens)}.",
            )
        return list(self._warnings(room))

    def _alone(self, seed: SeedTask) -> int:
        """The most tokens of all that is asked about one seed task."""
        settings, sizes = self._settings, [0]
        if seed.held_out:
            answered = answer_prompt(self._frames[-1], seed.instruction, seed.input)
            sizes.append(self._count((*answered, *self._template.completion(seed.output))))
        else:
            sizes.append(self._list_of([seed]))
            text = seed.instruction + seed.input + seed.output
            if settings.judges and settings.exam_tasks and len(text) <= exam.LONGEST:
                # A spoiled answer may hold its own again.
                sizes += [self._judged(seed.instruction, seed.input, f"{seed.output} {seed.output}")]
        return max(sizes)

    def _list_of(self, shots: Sequence[SeedTask]) -> int:
        tasks = [seed.task for seed in shots]
        return max(self._count(task_list_prompt(frame, self._texts, tasks)) + 1 for frame in self._frames)

    def _judged(self, instruction: str, input: str, answer: str) -> int:
        style = self._settings.judge_prompt
        return 1 + max(
            self._count(judge_prompt(frame, self._texts, style, criterion, instruction, input, answer))
            for frame in self._frames
            for criterion in CRITERIA
        )

    def _warnings(self, room: int) -> Iterator[str]:
        settings = self._settings
        if not settings.judges:
            return
        need = self._judged("", "", "") + int(LONGEST * TOKENS_A_WORD) + settings.answer_max_tokens
        if need > room:
            yield (
                f"{self._named(room)} may be too small to judge a long answer to a long instruction, and such a pair"
                f" would end the run. {self._wider(room, need)}, which holds any; it cannot be changed later."
            )

    def _named(self, room: int) -> str:
        return f"--context {room}" if room == self._settings.context else f"the model's own context of {room} tokens"

    def _wider(self, room: int, need: int) -> str:
        wanted = "Give --context" if room == self._settings.context else "Choose a model with a context of"
        return f"{wanted} {_rounded(need)}"


def _too_long(seeds: Sequence[SeedTask], sizes: Mapping[str, int], room: str, wider: str) -> SeedFileError:
    named = "; ".join(f"{seed.place or seed.id} ({sizes[seed.id]} tokens)" for seed in seeds[:NAMED])
    more = f"; and {len(seeds) - NAMED} more" if len(seeds) > NAMED else ""
    return SeedFileError(
        f"Seed tasks are too long for {room}, with all that is asked together with them: {named}{more}. Nothing was"
        " generated.",
        f"{wider}, or shorten these tasks or leave them out.",
    )


def _rounded(tokens: int) -> int:
    return -(-tokens // STEP) * STEP
