"""What the screen shows and which keys it knows. Pure."""

from __future__ import annotations

from rich.text import Text

from minisheep.screen.lines import STRONG, line, title, wrap

KEYS = (
    ("q", "leave the screen; the run goes on, and `minisheep attach RUN` shows it again"),
    ("p", "pause after the record in hand, or go on; models stay in memory meanwhile"),
    ("?", "this explanation, or back"),
    ("Ctrl-C", "stop the run when what is in hand is finished; a second one stops at once. The same command goes on"),
)
PARTS = (
    ("the ring", "the stages of a round: what is lit is being done, what is green is done"),
    ("the stages", "how much of what there is to do, how fast, and how long it will take; ~ is what it took last time"),
    ("tokens/s", "tokens that the model computes in a second, prompts included; slots are texts written side by side"),
    ("loss", "nats per token in training, against the step; rings are the examples held back"),
    ("scores", "how many pairs the judge gave which score; their scale depends on the judge"),
    ("newest", "the newest instruction of the model's own, its answer, and the judge's scores"),
    ("the table", "base and rounds on held-out tasks: NLL is nats per token (lower is better), change has its standard"
     " error, checks are constraints that a program can check, `ends` are answers that end by themselves;"
     " * is the round to use"),
    ("warnings", "what you should know; they stay until the run ends"),
)  # fmt: skip


def explanation(width: int, height: int) -> list[Text]:
    """Keys first, then what is shown; what does not fit is cut off."""
    rows = [line(width), title(width, "keys")]
    size = max(len(name) for name, _ in (*KEYS, *PARTS)) + 4
    rows += _rows(KEYS, width, size)
    rows += [line(width), title(width, "what is shown")]
    rows += _rows(PARTS, width, size)
    return rows[:height]


def _rows(pairs: tuple[tuple[str, str], ...], width: int, size: int) -> list[Text]:
    return [
        line(width, (f"  {name if number == 0 else '':<{size - 2}}", STRONG), row)
        for name, text in pairs
        for number, row in enumerate(wrap(text, max(20, width - size - 2), 4))
    ]
