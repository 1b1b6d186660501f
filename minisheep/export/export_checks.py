"""What an export must show before it appears: asks run and export the same prompts, and compares what they answer.

Four faults of exports go unnoticed until somebody talks to the model: a prompt other than the trained one, an end token
that ends nothing, a lost adapter, and a quantisation that ruins the model. Each has a check:

- prompts: the exported template and tokenizer give the token ids that the run's engine was given.
- end: the end token is one token, and the exported file marks it as an end.
- merge: the merged tensors differ from the base's by the adapter and nothing else (`formats.merge.differences`).
- agreement: the export finds the run's own greedy answers as likely as the run did, and its own answers begin alike.
- ends: of the answers that the run ended by itself, at least 95 % end in the export too. The export may use twice the
  tokens, since different rounding gives different words. Answers that the run did not end do not count: a small model
  with a short budget leaves many. With few answers, one exception is allowed.

Agreement compares likelihoods because long greedy texts diverge at the first difference in rounding. The limits were
measured, see `LIMITS`. The checks themselves are pure; what asks the models runs in a worker.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from minisheep.config import Settings
from minisheep.data.seed_tasks import load_seeds
from minisheep.engines.base import Completion, GenerateRequest, LoglikRequest, Sampling
from minisheep.engines.llamacpp import LlamaCppEngine
from minisheep.engines.native import Vocabulary
from minisheep.errors import ExportError, ModelFileError, SeedFileError, UnsupportedModelError
from minisheep.export import ollama
from minisheep.formats.gguf_header import GgufHeader, read_header
from minisheep.formats.model_facts import chat_template, special_tokens
from minisheep.machine import jinja_child
from minisheep.rules.prompts import user_text
from minisheep.rules.templates import Prompt, Segment, Template
from minisheep.stages.evaluate import held_out

ENDS = 0.95
"""Share of the run's ended answers that must end in the export."""
MERGE = 0.5
"""Largest share of the adapter by which a merged tensor may be off; rounding alone gives up to a tenth."""
BORDERS = 2
"""A tokenizer may join a plain-text label with the user's text in two places: before it and after it."""
BORDER_TOKENS = 4
SLACK = 2
"""The export may take this many times the run's tokens to end."""
CONTEXT = 2048
TOP_K = Sampling().top_k
"""With which the run samples its answers."""
MODELFILE = "Modelfile"
CHAT_TEMPLATE = "chat_template.jinja"

OnProgress = Callable[..., None]
"""Hears how many steps are done, how many there are, and how many sequences are being written, if any are."""


@dataclass(frozen=True, slots=True)
class ExportCheck:
    name: str
    passed: bool
    text: str
    """The result, with its numbers."""


@dataclass(frozen=True, slots=True)
class Limit:
    nll: float
    """Nats per token by which the run's own answers may be less likely, on average."""
    begins: float
    """Smallest share of answers that must begin with the run's first word."""


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
    """The format with the widest limit, for two sides that are quantised differently."""
    known = [format if format in LIMITS else "Q3_K_M" for format in formats]
    return max(known, key=lambda format: LIMITS[format].nll)


@dataclass(frozen=True, slots=True)
class ComparedPrompt:
    """One prompt on both sides."""

    tokens: int
    """Of the run's greedy answer, including its end token if it ended."""
    run_nll: float
    """Summed over these tokens, in nats."""
    export_nll: float
    run_ended: bool
    export_ended: bool
    same_begin: bool
    """Whether both greedy answers have the same first word."""


def prompts(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, words: bool, piece: Callable[[int], bytes]
) -> ExportCheck:
    """Compares the token ids of run and export for each prompt.

    With `words` the labels are plain text. A program that tokenises the rendered text as a whole joins them with the
    user's words, so the ids may differ at the two borders.
    """
    same = sum(list(run) == list(export) for run, export in pairs)
    joined = sum(
        list(run) != list(export) and words and _differ_at_borders(run, export, piece) for run, export in pairs
    )
    text = f"{same} of {len(pairs)} prompts have the run's token ids"
    if joined:
        text += f", {joined} have the same text, split differently where the template's plain words meet the user's"
    return ExportCheck("prompts", bool(pairs) and same + joined == len(pairs), text)


def end(tokens: Sequence[int], known: bool, text: str) -> ExportCheck:
    """Whether the end of an answer is one token, and `known` to the exported file as an end."""
    marked = "marks it as an end" if known else "does not mark it as an end"
    return ExportCheck(
        "end token", len(tokens) == 1 and known, f"{text!r} is {len(tokens)} token(s), and the exported file {marked}"
    )


def merge(differences: Mapping[str, float]) -> ExportCheck:
    """`differences` are those of `formats.merge.differences`, by tensor."""
    worst = max(differences, key=lambda name: differences[name], default="")
    if not worst:
        return ExportCheck("merge", False, "the adapter changed nothing")
    off = f"{100 * differences[worst]:.1f} % of the adapter, in {worst}"
    text = f"{len(differences)} tensors hold base + adapter; largest relative rounding error: {off}"
    return ExportCheck("merge", differences[worst] <= MERGE, text)


def agreement(prompts: Sequence[ComparedPrompt], format: str) -> ExportCheck:
    """Whether run and export agree on the run's greedy answers, within the limit of a format."""
    limit = LIMITS[format]
    tokens = sum(p.tokens for p in prompts)
    if not tokens:
        return ExportCheck("agreement", False, "the run answered every prompt with nothing")
    rise = sum(p.export_nll - p.run_nll for p in prompts) / tokens
    begins = sum(p.same_begin for p in prompts) / len(prompts)
    text = (
        f"the run's {len(prompts)} greedy answers are {rise:+.4f} nats per token less likely (limit {limit.nll:g}),"
        f" {begins:.0%} of answers begin alike (at least {limit.begins:.0%})"
    )
    return ExportCheck("agreement", rise <= limit.nll and begins >= limit.begins, text)


def ends(prompts: Sequence[ComparedPrompt]) -> ExportCheck:
    """Whether the export ends its answers by itself where the run did."""
    ended = [p for p in prompts if p.run_ended]
    both = sum(p.export_ended for p in ended)
    allowed = max(1, int((1 - ENDS) * len(ended)))
    text = f"{both} of the {len(ended)} answers that the run ended by itself end in the export too"
    if len(ended) < 2:
        # Too few to count; the end token and its likelihood (agreement) still decide.
        return ExportCheck("ends", True, f"{text}; too few to decide")
    return ExportCheck("ends", both >= len(ended) - allowed, text)


def _differ_at_borders(run: Sequence[int], export: Sequence[int], piece: Callable[[int], bytes]) -> bool:
    if b"".join(map(piece, run)) != b"".join(map(piece, export)):
        return False
    blocks = [b for b in SequenceMatcher(None, run, export, autojunk=False).get_opcodes() if b[0] != "equal"]
    return len(blocks) <= BORDERS and all(max(b - a, d - c) <= BORDER_TOKENS for _, a, b, c, d in blocks)


# What asks the two sides.


@dataclass(frozen=True, slots=True)
class GreedyAnswer:
    """The run's greedy answer to one prompt."""

    user: str
    prompt: list[int]
    """Token ids."""
    continuation: list[int]
    """Those of the answer, and of its end if it ended."""
    text: str
    ended: bool
    nll: float
    """Summed over the continuation, in nats."""


def answers(
    model: Path,
    adapter: Path,
    template: Template,
    users: Sequence[str],
    tokens: int,
    machine: Mapping[str, Any],
    on_progress: OnProgress,
) -> list[GreedyAnswer]:
    """The run's answers of at most `tokens` tokens, on its base with its adapter. Raises what the engine raises."""
    with contextlib.closing(LlamaCppEngine(model, adapter=adapter, context=CONTEXT, **machine)) as engine:
        prompts = [template.prompt(user) for user in users]
        completions = _generate(engine, prompts, template, tokens, on_progress)
        continuations = [_continuation(template, c.text, ended=c.finish == "end") for c in completions]
        nlls = _nlls(engine, prompts, continuations, on_progress)
        answers = []
        for user, prompt, completion, continuation, nll in zip(
            users, prompts, completions, continuations, nlls, strict=True
        ):
            ids = engine.vocabulary.encode(prompt, bos=True)
            continued = engine.vocabulary.encode(continuation, bos=False, after=ids[-1])
            answers.append(GreedyAnswer(user, ids, continued, completion.text, completion.finish == "end", nll))
        return answers


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
    """The export on the same prompts, each rendered by its own template and tokenised as a whole, as servers do."""
    with contextlib.closing(LlamaCppEngine(model, adapter=adapter, context=CONTEXT, **machine)) as engine:
        prompts: list[Prompt] = [(Segment(text, True),) for text in rendered]
        completions = _generate(engine, prompts, template, SLACK * tokens, on_progress)
        continuations = [_continuation(template, a.text, ended=a.ended) for a in run]
        nlls = _nlls(engine, prompts, continuations, on_progress)
        found = []
        for answer, completion, nll in zip(run, completions, nlls, strict=True):
            ended, alike = completion.finish == "end", completion.text.split()[:1] == answer.text.split()[:1]
            found.append(ComparedPrompt(len(answer.continuation), answer.nll, nll, answer.ended, ended, alike))
        return found


def prompt_checks(
    model: Path, rendered: Sequence[str], run: Sequence[GreedyAnswer], template: Template, *, words: bool
) -> list[ExportCheck]:
    """Whether a GGUF's tokenizer gives the run's ids for rendered prompts, and whether the file knows the end token."""
    with Vocabulary.from_file(model) as vocabulary:
        pairs = [
            (answer.prompt, vocabulary.encode((Segment(text, True),), bos=True))
            for answer, text in zip(run, rendered, strict=True)
        ]
        ids = vocabulary.encode((Segment(template.end, True),), bos=False)
        return [
            prompts(pairs, words=words, piece=vocabulary.piece),
            # An adapter's base may not mark it; the run stopped there by itself.
            end(ids, all(vocabulary.is_end(token) for token in ids) or template.end in template.stop, template.end),
        ]


def end_token(vocabulary: Vocabulary, template: Template) -> int:
    """The token that ends an answer. Raises `errors.ExportError` if the end is not one token."""
    tokens = vocabulary.encode((Segment(template.end, True),), bos=False)
    if len(tokens) != 1:
        raise ExportError(
            f"The template ends answers with {template.end!r}, which is not one token of the model. Nothing was"
            " exported.",
            "Use --to adapter, and stop answers at that text yourself.",
        )
    return tokens[0]


def _generate(
    engine: LlamaCppEngine, prompts: Sequence[Prompt], template: Template, tokens: int, on_progress: OnProgress
) -> list[Completion]:
    sampling = Sampling(temperature=0.0, max_tokens=tokens, stop=template.stop)
    requests = [GenerateRequest(str(place), prompt, sampling) for place, prompt in enumerate(prompts)]
    completions: dict[str, Completion] = {}
    for completion in engine.generate(requests):
        completions[completion.id] = completion
        # As many likelihoods are to come.
        on_progress(len(completions), 2 * len(requests), engine.running)
    return [completions[request.id] for request in requests]


def _nlls(
    engine: LlamaCppEngine, prompts: Sequence[Prompt], continuations: Sequence[Prompt], on_progress: OnProgress
) -> list[float]:
    pairs = zip(prompts, continuations, strict=True)
    requests = [LoglikRequest(str(place), *pair) for place, pair in enumerate(pairs)]
    nlls: dict[str, float] = {}
    for loglik in engine.loglik(requests):
        nlls[loglik.id] = -sum(loglik.logprobs)
        on_progress(len(requests) + len(nlls), 2 * len(requests), engine.running)
    return [nlls[request.id] for request in requests]


def _continuation(template: Template, text: str, *, ended: bool) -> Prompt:
    return template.completion(text) if ended else (Segment(text),)


def prompt(tokenizer: Any, user: str) -> list[int]:
    """Token ids of one user's turn, by the chat template of transformers."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": user}], add_generation_prompt=True, tokenize=True, return_dict=False,
        enable_thinking=False,
    )  # fmt: skip
    return [int(token) for token in rendered]


def compare_likelihoods(
    folder: Path, prompts: Sequence[Sequence[int]], run: Sequence[GreedyAnswer], on_progress: OnProgress
) -> list[ComparedPrompt]:
    """The merged model in `folder`, loaded with transformers, on the run's answers.

    One forward pass for each prompt and no generation: the run's answer must be as likely, and its first token the most
    likely. Whether the model ends an answer is not tried, since the end token's likelihood counts.
    """
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device).eval()
    compared = []
    for done, (ids, answer) in enumerate(zip(prompts, run, strict=True), 1):
        whole = torch.tensor([[*ids, *answer.continuation]], device=device)
        with torch.no_grad():
            logits = model(input_ids=whole).logits[0, len(ids) - 1 : -1].float()
        tokens = torch.tensor(answer.continuation, device=device)
        nll = -torch.log_softmax(logits, -1)[torch.arange(len(tokens), device=device), tokens].sum()
        same = bool(len(tokens)) and int(logits[0].argmax()) == answer.continuation[0]
        compared.append(ComparedPrompt(len(tokens), answer.nll, float(nll), False, False, same))
        on_progress(done, len(run))
    return compared


def users(settings: Settings, count: int) -> list[str]:
    """The user's turns: held-out tasks of the run's seeds, or of the built-in seeds if that file is gone."""
    try:
        seeds = load_seeds(settings.seeds, settings.language)
    except SeedFileError:
        seeds = load_seeds()
    return [user_text(task.instruction, task.input) for task in held_out(seeds, count)]


def by_gguf(path: Path, users: list[str]) -> list[str]:
    """Each user's turn by the chat template in a GGUF, as LM Studio and llama.cpp's server render it.

    Raises `errors.UnsupportedModelError` if the file has none, or one that cannot be rendered.
    """
    header = read_header(path)
    source = chat_template(header)
    if not source:
        raise UnsupportedModelError("The exported GGUF has no chat template.", "Train with --template chatml.")
    return by_jinja(source, header, users)


def by_jinja(source: str, header: GgufHeader, users: list[str]) -> list[str]:
    """Each user's turn by a chat template; `header` names the begin and end tokens.

    Raises `errors.UnsupportedModelError` if it cannot be rendered.
    """
    chats = [([{"role": "user", "content": user}], True) for user in users]
    return jinja_child.render(source, special_tokens(header), chats)


def by_modelfile(path: Path, users: list[str]) -> list[str]:
    """Each user's turn as Ollama renders it. Raises `errors.ModelFileError`."""
    with _reading_back():
        modelfile = ollama.parse(path.read_text(encoding="utf-8"))
        return [ollama.render(modelfile.template, modelfile.system, user) for user in users]


def check_modelfile(path: Path, meant: ollama.Modelfile) -> None:
    """Raise `errors.ModelFileError` unless a Modelfile says, as Ollama reads it, what it was meant to say."""
    with _reading_back():
        found = ollama.parse(path.read_text(encoding="utf-8"))
    if found != meant:
        raise ModelFileError(
            f"The Modelfile does not say what it should: FROM {found.source!r}, parameters {dict(found.parameters)}.",
            "Nothing was exported.",
        )


@contextlib.contextmanager
def _reading_back() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        raise ModelFileError(f"The Modelfile cannot be read back: {error}.", "Nothing was exported.") from None


def end_tokens(path: Path) -> list[int]:
    """The tokens at which transformers ends an answer, from a folder's generation_config.json."""
    ids = json.loads((path / "generation_config.json").read_bytes())["eos_token_id"]
    return ids if isinstance(ids, list) else [ids]
