"""The second job of an export: merged safetensors with all that transformers needs, and transformers' own answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from minisheep.engines.vocabulary import Vocabulary
from minisheep.export import check, forced, llama, prompts, weights
from minisheep.export.desk import Work
from minisheep.machine.files import write_atomic, write_json
from minisheep.models.facts import bos_text, quantisation

TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def make(work: Work) -> None:
    """Raises `errors.ExportError` where a check fails, and what transformers and the disk raise."""
    import minisheep.trainers.peft_model  # noqa: F401  # takes the hub's client off line

    spec, source = work.spec, work.model.weights
    folder = spec.model_folder
    folder.mkdir(parents=True, exist_ok=True)
    weights.merge(source, work.round.adapter, folder, work.step("merge weights"))
    index = source / "model.safetensors.index.json"
    if index.exists():
        shutil.copyfile(index, folder / index.name)
    with Vocabulary.from_file(work.model.gguf) as vocabulary:
        end = llama.end_token(vocabulary, work.template)
        ends = list(dict.fromkeys((end, vocabulary.eos)))
        template = work.chat_template(adds_bos=vocabulary.add_bos)
    _configure(work, folder, end, [token for token in ends if token >= 0])
    write_atomic(folder / prompts.CHAT_TEMPLATE, template.encode())
    work.step("tokenizer")
    tokenizer = _tokenizer(work, source, folder, template)
    run = work.answers()
    asked = [forced.prompt(tokenizer, answer.user) for answer in run]
    with Vocabulary.from_file(work.model.gguf) as vocabulary:
        pairs = [(answer.prompt, ids) for answer, ids in zip(run, asked, strict=True)]
        work.judge(
            "merged model",
            [
                check.prompts(pairs, words=work.words, piece=vocabulary.piece),
                check.end([end], end in prompts.end_tokens(folder), work.template.end),
            ],
        )
    found = forced.compare(folder, asked, run, work.step("the merged model is asked"))
    # Weights of their own were never quantised, and the run's answers are those of a GGUF that was.
    of_gguf = "BF16" if work.model.weights_note else quantisation(work.header)
    work.judge("merged model", [check.agreement(found, check.widest("BF16", of_gguf))])


def _configure(work: Work, folder: Path, end: int, ends: list[int]) -> None:
    """config.json of the base with the trained end token, and generation_config.json with the run's sampling."""
    config: dict[str, Any] = json.loads((work.model.weights / "config.json").read_bytes())
    config["eos_token_id"] = end
    write_json(folder / "config.json", config)
    settings = work.settings
    generation: dict[str, Any] = {
        "do_sample": settings.answer_temperature > 0,
        "eos_token_id": ends,
    }
    if settings.answer_temperature > 0:
        generation |= {
            "temperature": settings.answer_temperature,
            "top_p": settings.answer_top_p,
            "top_k": llama.TOP_K,
        }
    for name in ("bos_token_id", "pad_token_id"):
        if isinstance(config.get(name), int):
            generation[name] = config[name]
    write_json(folder / "generation_config.json", generation)


def _tokenizer(work: Work, source: Path, folder: Path, template: str) -> Any:
    """The base's own tokenizer; one made from the GGUF's vocabulary where the weights came without."""
    import transformers

    there = [name for name in TOKENIZER if (source / name).is_file()]
    if "tokenizer_config.json" in there:
        for name in there:
            shutil.copyfile(source / name, folder / name)
        made = transformers.AutoTokenizer.from_pretrained(folder)
    else:
        work.note("The weights came without a tokenizer: one is made from the GGUF's vocabulary.")
        made = transformers.AutoTokenizer.from_pretrained(work.model.gguf.parent, gguf_file=work.model.gguf.name)
    made.chat_template = template
    made.eos_token = work.template.end
    if not made.bos_token and work.bos:
        made.bos_token = bos_text(work.header)
    made.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)
