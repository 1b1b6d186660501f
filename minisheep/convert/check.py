"""Whether llama.cpp makes the same token ids with a converted file as the model's own tokenizer.json does.

Done by a worker: it loads llama.cpp. The texts touch what tokenizers differ in: how words,
numbers, spaces and line ends are cut, scripts, marks, emoji, code, and bytes that no token stands for.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.events import Emit
from minisheep.machine.worker import WorkerProcess

TEXTS = (
    "The shepherd counted 48 sheep, then 1,234,567 more; she'd lost none.",
    "I'm sure THEY'LL say it's fine, won't they? WE'VE heard that before!",
    "a  b   c    d     e\tf\t\tg \t h",
    "  leading and trailing  ",
    "one\ntwo\n\nthree\n\n\nfour\r\nfive \n six",
    "x=3.14159;y=-2e10;z=0xFF // 100% [a_b]{c}<d>",
    "def f(x):\n    if x > 1:\n        return x ** 2\n    return None\n",
    "Déjà vu à Genève, naïve façade, Ærøskøbing, Łódź, İstanbul",
    "Быстрая лиса прыгает, Η γρήγορη αλεπού, שועל מהיר, ثعلب سريع",
    "素早い狐が犬を飛び越える。快速的棕色狐狸。빠른 갈색 여우",
    "तेज़ लोमड़ी, ஒரு நரி, สุนัขจิ้งจอก, ქართული, አማርኛ",
    "emoji 🐑🐏 family 👩‍👩‍👧‍👦 flag 🇨🇭 skin 👍🏽",
    "½ ² ⅷ ٣ ৪ 五 ①",
    "“quotes” — dashes… ‹›  narrow no-break 　ideographic",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U00010330\U00010331 \u0001 \u200b \ufffd",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ################ ----------------",
    "CamelCaseWords snake_case_words kebab-case-words https://example.org/a?b=c&d=e#f",
    "",
)


def check_tokens(gguf: Path, folder: Path) -> None:
    """Raise `errors.UnsupportedModelError` with the first text of `TEXTS` that the two tokenizers see differently."""
    with WorkerProcess("minisheep.convert.check:compare", died=ModelFileError) as worker:
        job = {"phase": "check", "gguf": str(gguf), "folder": str(folder)}
        worker.do(job, f"Checking the tokenizer of {gguf.name}")


def compare(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> None:
    import tokenizers

    from minisheep.engines.vocabulary import Vocabulary
    from minisheep.rules.templates import Segment

    theirs = tokenizers.Tokenizer.from_file(str(Path(job["folder"]) / "tokenizer.json"))
    theirs.no_padding()
    theirs.no_truncation()
    with Vocabulary.from_file(Path(job["gguf"])) as ours:
        for text in TEXTS:
            # llama.cpp composes no characters: a tokenizer that does is held to what is composed already.
            composed = unicodedata.normalize("NFC", text)
            expected = theirs.encode(composed, add_special_tokens=False).ids
            found = ours.encode((Segment(composed),), bos=False)
            if found != expected:
                raise UnsupportedModelError(
                    f"llama.cpp does not tokenise as this model's tokenizer does: {composed[:40]!r} becomes"
                    f" {found[:8]}, not {expected[:8]}.",
                    "Pass a GGUF of this model with --gguf FILE, or choose another model.",
                )
