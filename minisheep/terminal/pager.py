"""Records in words, and the pager that shows them: a key makes another page, and a page is lines.

Pure, but for `show`, which uses a terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.cells import set_cell_size
from rich.console import Console, Group
from rich.control import Control
from rich.text import Text

from minisheep.rules.constraints import kind_in_words
from minisheep.rules.plain_text import one_line, sanitise
from minisheep.run.records import Example, Rejection, Verdict
from minisheep.terminal.record_browser import KEPT, MEANINGS, REJECTED, Answered, History, RecordFate, legend

ID = 8
"""Characters of an id in a list: enough to name a record in most runs."""
Section = tuple[str, str]
"""A heading, and a text of any number of lines."""


def line(item: RecordFate) -> str:
    text = f"{_shortened(item.instruction, item.input, 80)} | {one_line(item.answer, 80)}"
    why = f"{one_line(item.rule)}: " if item.rule else ""
    return f"{index(item)}  {why}{text}"


def index(item: RecordFate) -> str:
    """What a list shows before the texts: id, round, fate and score."""
    score = f"{item.score:8.3g}" if item.score is not None else " " * 8
    return f"{one_line(item.id)[:ID]:{ID}}  round {item.round}  {item.fate:8} {score}"


def row(item: RecordFate, width: int) -> str:
    """An item in a list of `width` columns."""
    why = f"{one_line(item.rule)}: " if item.rule else ""
    return f"{index(item)}  {why}{_shortened(item.instruction, item.input, 0)}"[: max(0, width)]


def item_json(item: RecordFate) -> dict[str, Any]:
    """JSON-ready, the id first."""
    return {"id": item.id, **asdict(item)}


def sections(history: History) -> Iterator[Section]:
    """A history: what was asked, answered and decided, and then what it was made from."""
    drafted = [(f"draft {d.index} of round {history.round}, {d.id}, ended by {one_line(d.finish)}", sanitise(d.text))
               for d in (history.draft,) if d is not None]  # fmt: skip
    of_draft = history.draft is not None and history.id == history.draft.id
    if of_draft:
        yield from drafted
    for instruction in history.instructions:
        heading = f"instruction {instruction.id}, number {instruction.position} of its draft"
        text = _task(instruction.instruction, instruction.input)
        yield f"{heading}, similarity {instruction.similarity:g}", sanitise(text)
    for rejection in history.rejections:
        text = _task(rejection.instruction, rejection.input) if rejection.instruction else rejection.output
        yield _decision(rejection), sanitise(text)
    for answer in history.answers:
        yield from _answer(answer)
    if history.lone is not None:
        yield (
            _decision(history.lone),
            sanitise(f"{_task(history.lone.instruction, history.lone.input)}\n{history.lone.output}"),
        )
    if not of_draft:
        yield from drafted
    for name, seed in history.seeds:
        text = "(no longer among the seed tasks)" if seed is None else _task(seed.instruction, seed.input)
        yield f"seed task {one_line(name)}", sanitise(text)


def _answer(answer: Answered) -> Iterator[Section]:
    response, verdict, decision = answer.response, answer.verdict, answer.decision
    if (asked := answer.asked) is not None:
        shown = f", after {', '.join(map(one_line, asked.shown))}" if asked.shown else ""
        yield (
            f"asked as {asked.id}, of the {one_line(asked.by)} model{shown}",
            sanitise(_task(asked.instruction, asked.input)),
        )
    heading = f"answer {response.sample}, {response.id}, {response.tokens} tokens, ended by {one_line(response.finish)}"
    yield heading, sanitise(response.text)
    if (check := answer.check) is not None:
        verdict_ = "kept" if check.passed else "not kept"
        yield f"check {check.id}: {one_line(kind_in_words(check.kind))}, {verdict_}", sanitise(check.fault)
    if verdict is not None:
        yield _verdict(verdict), sanitise("\n".join(_raw(verdict)))
    if isinstance(decision, Example):
        yield (
            _decision(decision),
            sanitise(decision.output if decision.output != response.text else "as it was written"),
        )
    elif decision is not None:
        yield _decision(decision), sanitise(decision.detail)
    else:
        yield "not decided yet", ""


def _verdict(verdict: Verdict) -> str:
    given = (("score", verdict.score), ("quality", verdict.quality), ("following", verdict.following))
    scores = "".join(f", {name} {value:.4g}" for name, value in given if value is not None)
    return f"verdict {verdict.id} by {one_line(verdict.judge)}{scores or ', unreadable'}"


def _raw(verdict: Verdict) -> Iterator[str]:
    for name, value in verdict.raw.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"{one_line(name)}: {one_line(text)}"


def _decision(decision: Example | Rejection) -> str:
    if isinstance(decision, Example):
        return f"kept, {decision.id}" + (f", cut ({one_line(decision.cut)})" if decision.cut else "")
    detail = f": {one_line(decision.detail)}" if decision.detail else ""
    rule = f"{one_line(decision.stage)}.{one_line(decision.rule)}"
    what = f", which drops what {MEANINGS[rule]}" if rule in MEANINGS else ""
    return f"rejected, {decision.id}, by {rule}{what}{detail}"


def _task(instruction: str, input: str) -> str:
    return f"{instruction}\nInput: {input}" if input else instruction


def _shortened(instruction: str, input: str, width: int) -> str:
    return one_line(f"{instruction} [{input}]" if input else instruction, width)


STYLES = {KEPT: "green", REJECTED: "yellow"}
LIST_KEYS = "n next page, p previous, j/k down and up, enter opens, q leaves"
RECORD_KEYS = "n next record, p previous, j/k and space scroll, q back"
FRAME = 2
"""Lines of a screen that are a heading and the keys."""

DOWN, UP = frozenset({"j", "\x1b[B", "\x1bOB"}), frozenset({"k", "\x1b[A", "\x1bOA"})
NEXT, PREVIOUS = frozenset({"n", "\x1b[6~"}), frozenset({"p", "b", "\x1b[5~"})
FIRST, LAST = frozenset({"g", "\x1b[H"}), frozenset({"G", "\x1b[F"})
_KEY = re.compile("\x1b(?:\\[[0-9;]*[A-Za-z~]|O[A-Za-z])?|.", re.DOTALL)
ENTER, LEAVE, STOP = frozenset({"\r", "\n"}), frozenset({"q", "\x1b"}), frozenset({"\x03", "\x04"})


@dataclass(frozen=True, slots=True)
class Page:
    """Where a reader is: on which item, with which one at the top, and how far into an opened record."""

    count: int
    cursor: int = 0
    top: int = 0
    opened: bool = False
    offset: int = 0


def keys(text: str) -> list[str]:
    """The single keys of what was read at once: fast fingers, a repeating key or a paste put several into one."""
    return _KEY.findall(text)


def press(page: Page, key: str, height: int, length: int = 0) -> Page | None:
    """The page after a key, None to leave. `height` is lines for items or text, `length` those of an opened record."""
    return _in_record(page, key, height, length) if page.opened else _in_list(page, key, height)


def _in_list(page: Page, key: str, height: int) -> Page | None:
    if key in LEAVE:
        return None
    if key in ENTER and page.count:
        return replace(page, opened=True, offset=0)
    moves = {DOWN: 1, UP: -1, NEXT | {" "}: height, PREVIOUS: -height, FIRST: -page.count, LAST: page.count}
    step = next((step for keys, step in moves.items() if key in keys), 0)
    return _at(page, page.cursor + step, height)


def _in_record(page: Page, key: str, height: int, length: int) -> Page:
    if key in LEAVE:
        return replace(page, opened=False)
    if key in NEXT or key in PREVIOUS:
        return replace(_at(page, page.cursor + (1 if key in NEXT else -1), height), offset=0)
    moves = {DOWN | ENTER: 1, UP: -1, frozenset({" "}): height, FIRST: -length, LAST: length}
    step = next((step for keys, step in moves.items() if key in keys), 0)
    return replace(page, offset=max(0, min(page.offset + step, length - height)))


def _at(page: Page, cursor: int, height: int) -> Page:
    """The cursor within the items, the top so that it can be seen."""
    cursor = max(0, min(cursor, page.count - 1))
    top = min(max(page.top, cursor - height + 1), cursor)
    return replace(page, cursor=cursor, top=top)


def list_lines(items: Sequence[RecordFate], page: Page, title: str, width: int, height: int) -> list[Text]:
    shown = items[page.top : page.top + height]
    # The mark of the chosen item in words, since a list has no room for all.
    what = "".join(f"; {text}" for text in legend(items[page.cursor : page.cursor + 1]))
    lines = [_bar(f"{title}, {page.cursor + 1 if items else 0} of {len(items)}{what}", width)]
    for number, item in enumerate(shown, page.top):
        style = "reverse" if number == page.cursor else STYLES.get(item.fate, "")
        lines.append(Text(set_cell_size(row(item, width), width), style=style, no_wrap=True))
    return [*lines, *([Text("")] * (height - len(shown))), _bar(LIST_KEYS, width)]


def record_lines(text: Sequence[Text], page: Page, width: int, height: int) -> list[Text]:
    """A screen of an opened record, whose lines `text` are no wider than the screen."""
    shown = list(text[page.offset : page.offset + height])
    end = min(len(text), page.offset + height)
    heading = f"record {page.cursor + 1} of {page.count}, lines {page.offset + 1}-{end} of {len(text)}"
    return [_bar(heading, width), *shown, *([Text("")] * (height - len(shown))), _bar(RECORD_KEYS, width)]


def history_text(history: History, console: Console, width: int) -> list[Text]:
    """A history as lines of at most `width` columns: headings bold, texts indented."""
    lines: list[Text] = []
    for heading, body in sections(history):
        lines += Text(heading, style="bold").wrap(console, width)
        for line in body.split("\n") if body else []:
            lines += [Text("  ") + part for part in Text(line).wrap(console, max(1, width - 2)) or [Text("")]]
        lines.append(Text(""))
    return lines


def opening(text: Sequence[Text], height: int) -> int:
    """Where a record opens: at its top, or further down if the answer would be below the first screen."""
    answer = next((place for place, line in enumerate(text) if line.plain.startswith("answer ")), 0)
    return answer - height // 2 if answer + 2 > height else 0


def show(
    items: Sequence[RecordFate],
    title: str,
    look_up: Callable[[RecordFate], History],
    read_keys: Callable[[], str],
    console: Console,
) -> None:
    """Page through `items` on a terminal until the reader leaves. `read_keys` waits for one key or several."""
    page: Page | None = Page(len(items))
    waiting: list[str] = []
    with console.screen(hide_cursor=True) as screen:
        opened: tuple[int, int, list[Text]] | None = None
        while page is not None:
            width, height = console.width, max(1, console.height - FRAME)
            text: list[Text] = []
            if page.opened:
                if opened is None or opened[:2] != (page.cursor, width):
                    anew = opened is None or opened[0] != page.cursor
                    opened = (page.cursor, width, history_text(look_up(items[page.cursor]), console, width))
                    page = replace(page, offset=opening(opened[2], height)) if anew else page
                text = opened[2]
            else:
                opened = None
            if not waiting:
                lines = (
                    record_lines(text, page, width, height)
                    if page.opened
                    else list_lines(items, page, title, width, height)
                )
                console.control(Control.home())
                screen.update(Group(*lines))
                try:
                    waiting = keys(read_keys())
                except (EOFError, KeyboardInterrupt):
                    return
                if not waiting:
                    return
            key = waiting.pop(0)
            if key in STOP:
                return
            page = press(page, key, height, len(text))


def _bar(text: str, width: int) -> Text:
    return Text(set_cell_size(one_line(text), width), style="dim", no_wrap=True)
