"""What an export must show before it appears; decisions on numbers alone. Pure.

Four things go wrong in exports and are not seen until somebody talks to the model: another prompt than the trained one,
an end token that nothing ends at, an adapter that was lost, and a quantisation that spoils the model. Each has a check:

- prompts: the exported template and tokenizer give the token ids that the run's engine was given.
- end: the end token is one token, and the exported file calls it an end.
- merge: the merged tensors differ from the base's by the adapter and nothing else (`formats.merge.differences`).
- agreement: the export finds the run's own greedy answers as likely as the run did, and begins its own alike.
- ends: of the answers that the run ended by itself, at least 95 % end in the export too, which is given twice the
  tokens, since another rounding makes other words. Answers that the run itself did not end are not held against it: a
  small model with a short budget leaves many. One exception is allowed where there are few.

Agreement is decided on likelihoods because long greedy texts part at the first rounding and never meet again; the
limits were measured, see `LIMITS`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Self

from minisheep.config import Settings
from minisheep.engines.base import Completion, GenerateRequest, LoglikRequest, Sampling
from minisheep.engines.llamacpp import LlamaCppEngine
from minisheep.engines.native import Vocabulary
from minisheep.errors import ExportError, ModelFileError, SeedFileError, UnsupportedModelError
from minisheep.export import ollama
from minisheep.formats.gguf_header import GgufHeader, read_header
from minisheep.formats.model_facts import bos_text, chat_template, eos_text
from minisheep.rules.prompts import user_text
from minisheep.rules.seed_tasks import load_seeds
from minisheep.rules.templates import Prompt, Segment, Template, render_jinja
from minisheep.stages.evaluate import held_out

ENDS = 0.95
"""Share of the run's ended answers that must end in the export."""
MERGE = 0.5
"""Most of the adapter that may be missing from, or too much in, a merged tensor: rounding alone gives up to a tenth."""
SEAMS = 2
"""Places where a tokenizer may join a label of plain words with the user's text: before it and after it."""
SEAM_TOKENS = 4


@dataclass(frozen=True, slots=True)
class ExportCheck:
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
class ComparedPrompt:
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
) -> ExportCheck:
    """Token ids of the run and of the export for each prompt. With `words` the labels are plain text: a program that
    tokenises the rendered text as a whole joins them with the user's words, so the ids may differ at the two seams."""
    same = sum(list(run) == list(export) for run, export in pairs)
    seams = sum(list(run) != list(export) and words and _differ_at_seams(run, export, piece) for run, export in pairs)
    text = f"{same} of {len(pairs)} prompts have the run's token ids"
    if seams:
        text += f", {seams} the same text cut otherwise where the frame's plain words meet the user's"
    return ExportCheck("prompts", bool(pairs) and same + seams == len(pairs), text)


def end(tokens: Sequence[int], known: bool, text: str) -> ExportCheck:
    """The end of an answer as the export's tokenizer has it, and whether the exported file calls it an end."""
    said = f"{text!r} is {len(tokens)} token(s), " + ("an end" if known else "no end") + " by the exported file"
    return ExportCheck("end token", len(tokens) == 1 and known, said)


def merge(differences: Mapping[str, float]) -> ExportCheck:
    """See `formats.merge.differences`; by tensor."""
    worst = max(differences, key=lambda name: differences[name], default="")
    if not worst:
        return ExportCheck("merge", False, "the adapter changed nothing")
    off = f"{differences[worst]:.1%} of it"
    text = f"{len(differences)} tensors hold base + adapter; the farthest, {worst}, is off by {off}"
    return ExportCheck("merge", differences[worst] <= MERGE, text)


def agreement(asked: Sequence[ComparedPrompt], format: str) -> ExportCheck:
    """Whether run and export agree on the run's greedy answers, within what a format of `LIMITS` loses."""
    limit = LIMITS[format]
    tokens = sum(a.tokens for a in asked)
    if not tokens:
        return ExportCheck("agreement", False, "the run answered no prompt with a word")
    rise = sum(a.export_nll - a.run_nll for a in asked) / tokens
    begins = sum(a.same_begin for a in asked) / len(asked)
    text = (
        f"the run's {len(asked)} greedy answers are {rise:+.4f} nats a token less likely (limit {limit.nll:g}),"
        f" {begins:.0%} of answers begin alike (at least {limit.begins:.0%})"
    )
    return ExportCheck("agreement", rise <= limit.nll and begins >= limit.begins, text)


def ends(asked: Sequence[ComparedPrompt]) -> ExportCheck:
    """Whether the export ends where the run did."""
    ended = [a for a in asked if a.run_ended]
    both = sum(a.export_ended for a in ended)
    allowed = max(1, int((1 - ENDS) * len(ended)))
    text = f"{both} of the {len(ended)} answers that the run ended by itself end by themselves"
    if len(ended) < 2:
        # Nothing to count: the end token and its likelihood (agreement) are what there is to go by.
        return ExportCheck("ends", True, f"{text}; too few to decide by")
    return ExportCheck("ends", both >= len(ended) - allowed, text)


def _differ_at_seams(run: Sequence[int], export: Sequence[int], piece: Callable[[int], bytes]) -> bool:
    if b"".join(map(piece, run)) != b"".join(map(piece, export)):
        return False
    blocks = [
        block for block in SequenceMatcher(None, run, export, autojunk=False).get_opcodes() if block[0] != "equal"
    ]
    return len(blocks) <= SEAMS and all(max(b - a, d - c) <= SEAM_TOKENS for _, a, b, c, d in blocks)


# Both sides on llama.cpp: the run's base with its adapter hot-loaded, and an exported GGUF. For a worker.
SLACK = 2
"""The export may take so many times the run's tokens to end."""
CONTEXT = 2048
TOP_K = Sampling().top_k
"""With which the run draws its answers."""
_WORDS = 1

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class GreedyAnswer:
    """What the run answers to one prompt, greedily."""

    user: str
    prompt: list[int]
    """Token ids."""
    continuation: list[int]
    """Those of the answer, and of its end where it ended."""
    text: str
    ended: bool
    nll: float
    """Summed over the continuation, nats."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**data)


def answers(
    model: Path,
    adapter: Path,
    template: Template,
    users: Sequence[str],
    tokens: int,
    machine: Mapping[str, Any],
    on_progress: OnProgress,
) -> list[GreedyAnswer]:
    """The run's answers of at most so many `tokens`; `on_progress` hears how many steps of how many are done.

    Raises what the engine raises.
    """
    engine = LlamaCppEngine(model, adapter=adapter, context=CONTEXT, **machine)
    try:
        asked = [template.prompt(user) for user in users]
        said = _generate(engine, asked, template, tokens, on_progress)
        follow = [_continuation(template, answer) for answer in said]
        nlls = _nlls(engine, asked, follow)
        vocabulary = engine.vocabulary
        found = []
        for user, prompt, answer, more, nll in zip(users, asked, said, follow, nlls, strict=True):
            ids = vocabulary.encode(prompt, bos=True)
            found.append(
                GreedyAnswer(
                    user,
                    ids,
                    vocabulary.encode(more, bos=False, after=ids[-1]),
                    answer.text,
                    answer.finish == "end",
                    nll,
                )
            )
        return found
    finally:
        engine.close()


def compare_texts(
    model: Path,
    adapter: Path | None,
    rendered: Sequence[str],
    run: Sequence[GreedyAnswer],
    template: Template,
    tokens: int,
    machine: Mapping[str, Any],
    on_progress: OnProgress,
) -> list[ComparedPrompt]:
    """The export on the same prompts, each as its own template puts it and tokenised as a whole, as servers do."""
    engine = LlamaCppEngine(model, adapter=adapter, context=CONTEXT, **machine)
    try:
        asked: list[Prompt] = [(Segment(text, True),) for text in rendered]
        said = _generate(engine, asked, template, SLACK * tokens, on_progress)
        follow = [template.completion(answer.text) if answer.ended else (Segment(answer.text),) for answer in run]
        nlls = _nlls(engine, asked, follow)
        return [
            ComparedPrompt(
                len(answer.continuation),
                answer.nll,
                nll,
                answer.ended,
                mine.finish == "end",
                _begin(mine.text) == _begin(answer.text),
            )
            for answer, mine, nll in zip(run, said, nlls, strict=True)
        ]
    finally:
        engine.close()


def prompt_checks(
    model: Path, rendered: Sequence[str], run: Sequence[GreedyAnswer], template: Template, *, words: bool
) -> list[ExportCheck]:
    """Whether a GGUF's tokenizer gives the run's ids for rendered prompts, and whether the file ends as it should."""
    with Vocabulary.from_file(model) as vocabulary:
        pairs = [
            (answer.prompt, vocabulary.encode((Segment(text, True),), bos=True))
            for answer, text in zip(run, rendered, strict=True)
        ]
        ids = vocabulary.encode((Segment(template.end, True),), bos=False)
        return [
            prompts(pairs, words=words, piece=vocabulary.piece),
            end(ids, all(vocabulary.is_end(token) for token in ids), template.end),
        ]


def end_token(vocabulary: Vocabulary, template: Template) -> int:
    """The token that ends an answer. Raises `errors.ExportError` where that is not one token."""
    tokens = vocabulary.encode((Segment(template.end, True),), bos=False)
    if len(tokens) != 1:
        raise ExportError(
            f"The template ends answers with {template.end!r}, which is no token of the model. Nothing was exported.",
            "Export --to adapter, and end answers there yourself.",
        )
    return tokens[0]


def _generate(
    engine: LlamaCppEngine, prompts: Sequence[Prompt], template: Template, tokens: int, on_progress: OnProgress
) -> list[Completion]:
    sampling = Sampling(temperature=0.0, max_tokens=tokens, stop=template.stop)
    requests = [GenerateRequest(str(place), prompt, sampling) for place, prompt in enumerate(prompts)]
    found: dict[str, Completion] = {}
    for completion in engine.generate(requests):
        found[completion.id] = completion
        on_progress(len(found), len(requests))
    return [found[request.id] for request in requests]


def _nlls(engine: LlamaCppEngine, prompts: Sequence[Prompt], follow: Sequence[Prompt]) -> list[float]:
    requests = [
        LoglikRequest(str(place), prompt, more)
        for place, (prompt, more) in enumerate(zip(prompts, follow, strict=True))
    ]
    found = {loglik.id: -sum(loglik.logprobs) for loglik in engine.loglik(requests)}
    return [found[request.id] for request in requests]


def _continuation(template: Template, answer: Completion) -> Prompt:
    return template.completion(answer.text) if answer.finish == "end" else (Segment(answer.text),)


def _begin(text: str) -> list[str]:
    return text.split()[:_WORDS]


# Merged weights in transformers: shown the run's greedy answers, they say how likely each token is.
#
# One forward pass a prompt, without generating: what the run answered must be as likely, and its first token the
# likeliest.
def prompt(tokenizer: Any, user: str) -> list[int]:
    """Token ids of one user's turn, as transformers chats."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": user}], add_generation_prompt=True, tokenize=True, return_dict=False,
        enable_thinking=False,
    )  # fmt: skip
    return [int(token) for token in rendered]


def compare_likelihoods(
    folder: Path, prompts: Sequence[Sequence[int]], run: Sequence[GreedyAnswer], on_progress: Callable[[int, int], None]
) -> list[ComparedPrompt]:
    """The merged model in `folder` on the run's answers. Ending is not tried here: its likelihood counts."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device).eval()
    found = []
    for done, (ids, answer) in enumerate(zip(prompts, run, strict=True), 1):
        whole = torch.tensor([[*ids, *answer.continuation]], device=device)
        with torch.no_grad():
            logits = model(input_ids=whole).logits[0, len(ids) - 1 : -1].float()
        wanted = torch.tensor(answer.continuation, device=device)
        nll = -torch.log_softmax(logits, -1)[torch.arange(len(wanted), device=device), wanted].sum()
        same = bool(len(wanted)) and int(logits[0].argmax()) == answer.continuation[0]
        found.append(ComparedPrompt(len(wanted), answer.nll, float(nll), False, False, same))
        on_progress(done, len(run))
    return found


# What run and export are asked: held-out seed tasks, framed as the run does and as the exported files do.
MODELFILE = "Modelfile"
CHAT_TEMPLATE = "chat_template.jinja"


def users(settings: Settings, count: int) -> list[str]:
    """The user's turns: held-out tasks of the run's seeds, or of minisheep's own where that file is gone."""
    try:
        seeds = load_seeds(settings.seeds)
    except SeedFileError:
        seeds = load_seeds()
    return [user_text(task.instruction, task.input) for task in held_out(seeds, count)]


def by_gguf(path: Path, users: list[str]) -> list[str]:
    """Each user's turn as the chat template in a GGUF puts it, and what LM Studio and llama.cpp's server then do.

    Raises `errors.UnsupportedModelError` where the file has none or it cannot be rendered.
    """
    header = read_header(path)
    source = chat_template(header)
    if not source:
        raise UnsupportedModelError("The exported GGUF holds no chat template.", "Train with --template chatml.")
    return by_jinja(source, header, users)


def by_jinja(source: str, header: GgufHeader, users: list[str]) -> list[str]:
    """Each user's turn as a chat template puts it; `header` names the begin and end tokens.

    Raises `errors.UnsupportedModelError` where it cannot be rendered.
    """
    special = {"bos_token": bos_text(header), "eos_token": eos_text(header)}
    return [render_jinja(source, special, [{"role": "user", "content": user}], answer_next=True) for user in users]


def by_modelfile(path: Path, users: list[str]) -> list[str]:
    """Each user's turn as Ollama puts it. Raises `errors.ModelFileError`."""
    try:
        told = ollama.parse(path.read_text(encoding="utf-8"))
        return [ollama.render(told.template, told.system, user) for user in users]
    except (ValueError, OSError) as error:
        raise ModelFileError(f"The Modelfile does not say what it should: {error}.", "Nothing was exported.") from None


def end_tokens(path: Path) -> list[int]:
    """The tokens at which transformers ends an answer, by a folder's generation_config.json."""
    found = json.loads((path / "generation_config.json").read_bytes())["eos_token_id"]
    return found if isinstance(found, list) else [found]
