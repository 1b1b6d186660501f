"""Texts that a model might write to act on a terminal, for tests of what is shown."""

from __future__ import annotations

import random
import re

from test_ui import PIECES

MARKDOWN = [
    "[text](http://x.example)",
    "[t](javascript:alert(1))",
    "![image](http://x.example/y.png)",
    "<http://auto.example>",
    "<img src=x onerror=y>",
    "<b>bold</b>",
    "<!-- hidden -->",
    "<kbd>x</kbd>",
    "\n<div>\nblock\n</div>\n",
    "&#27;[31m",
    "&#x202e;",
    "&#x9b;",
    "&NewLine;",
    "[ref]: http://x.example 'title'",
    "[ref]",
    "\n```python\nprint(1)\n```\n",
    "\n```\x1b[2J\n\x1b]8;;http://x\x1b\\\n```\n",
    "\n    indented\x9b\n",
    "\n# heading\n",
    "\n> quote\n",
    "\n- item\n",
    "\n999999999. item\n",
    "\n| a | b |\n|---|---|\n| [l](u) | \x1b[1m |\n",
    "~~gone~~",
    "**bold**",
    "`\x1b[31mcode`",
    "\\[",
    "\n***\n",
]
SGR = re.compile(r"\x1b\[[0-9;]*m")
"""Colours: all that rich may add to a text."""


def hostile(chance: random.Random, pieces: int = 6) -> str:
    """A text of up to so many pieces."""
    return "".join(
        chance.choice(PIECES if chance.random() < 0.5 else MARKDOWN) for _ in range(chance.randint(1, pieces))
    )
