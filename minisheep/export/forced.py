"""Merged weights in transformers: shown the run's greedy answers, they say how likely each token is.

One forward pass a prompt, without generating: what the run answered must be as likely, and its first token the
likeliest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minisheep.export.check import Asked
from minisheep.export.llama import Answer


def prompt(tokenizer: Any, user: str) -> list[int]:
    """Token ids of one user's turn, as transformers chats."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": user}], add_generation_prompt=True, tokenize=True, return_dict=False,
        enable_thinking=False,
    )  # fmt: skip
    return [int(token) for token in rendered]


def compare(
    folder: Path, prompts: Sequence[Sequence[int]], run: Sequence[Answer], tell: Callable[[int, int], None]
) -> list[Asked]:
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
        found.append(Asked(len(wanted), answer.nll, float(nll), False, False, same))
        tell(done, len(run))
    return found
