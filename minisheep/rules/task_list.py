"""Splits what a model wrote under a numbered task list into tasks. Pure.

The prompt ends with ``6. Instruction:``, so a completion starts inside task 6 and, when all goes well, reads on as
``7. Instruction: ...``. Models stray from that form in many ways; the test table has a row for each one seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from minisheep.rules.text_words import BLANK, STOPS, folded
from minisheep.rules.wording import ENGLISH, Wording

WIDEST_GAP = 9
"""A bare number that lies further above the last one is a figure ("42. "), not the number of a task."""

_TASKS, _OUTPUTS = ("task",), ("output", "answer", "response", "expected output", "solution")
# "7." "7)" "(7)" "7:" "**7.**" "### 7." "Task 7:" "Task 7" "**Instruction 7:**"
_NUMBER = (
    r"^[ \t]*(?:#{1,6}[ \t]*)?[*_]{0,3}(?:"
    r"(?P<word>%(words)s)[ \t]*\#?(?P<a>\d{1,4})[ \t]*"
    r"(?:[*_]{0,3}[%(stops)s][*_]{0,3}|[*_]{0,3}[ \t]*$)"
    r"|[%(open)s]?(?P<b>\d{1,4})[*_]{0,3}[%(stops)s][*_]{0,3}(?!\d)"
    r")[ \t]*"
)
_LABEL = (
    r"^[ \t]{0,20}[#>*_-]{0,6}[ \t]{0,8}(?P<name>%(names)s)"
    rf"{BLANK}?\d{{0,3}}[ \t]?[*_]{{0,3}}{BLANK}?[%(colons)s][*_]{{0,3}}{BLANK}*"
)
_INLINE_INPUT = r"(?<=[.!?:;\"')])[ \t]+[*_]{0,3}Input[*_]{0,3}:[*_]{0,3}(?=\s|$)"
_AROUND = r"[\s\-–—_.()\[\]<>\"'*（）【】《》“”。]*"
_NO_INPUT = (
    r"none|null|nil|n/?a|empty|not applicable|no[ _-]?input(?: (?:is )?(?:needed|required|necessary|given|"
    r"provided))?"
)
_BLANK = re.compile(r"[\s\-–—_.…]*")
_RULE_LINE = re.compile(r"[ \t]*([#=*_~-])(?:[ \t]?\1){2,}[ \t]*")
_QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»"), ("`", "`"), ("「", "」"), ("『", "』"))
_SENTENCE_END = (".", "!", "?", "…", '."', '!"', '?"', ".)", "。", "！", "？", *STOPS)


@dataclass(frozen=True, slots=True)
class Task:
    """A task that a model wrote. `input` is empty where the task needs none."""

    instruction: str
    input: str


@dataclass(slots=True)
class _Item:
    """A task while its lines are read. `section` is ``instruction``, ``input`` or ``output``."""

    instruction: list[str] = field(default_factory=list)
    input: list[str] = field(default_factory=list)
    section: str = "instruction"
    labelled: bool = False
    """Whether its instruction stands behind a label, so that nothing above it can be its title."""

    def append(self, line: str) -> None:
        if self.section != "output":
            (self.instruction if self.section == "instruction" else self.input).append(line)


@dataclass(frozen=True, slots=True)
class _Labels:
    """The expressions by which a list is read, in English and in the run's language."""

    number: re.Pattern[str]
    label: re.Pattern[str]
    inline_input: re.Pattern[str]
    no_input: re.Pattern[str]
    kinds: dict[str, str]
    """``instruction``, ``task``, ``input`` or ``output``, by the folded label."""

    def kind(self, label: re.Match[str]) -> str:
        return self.kinds[folded(label["name"])]

    def opens_task(self, text: str) -> bool:
        label = self.label.match(text)
        return label is not None and self.kind(label) in ("instruction", "task")


@cache
def _labels(words: Wording) -> _Labels:
    def either(*names: str) -> str:
        return "|".join(re.escape(name) for name in sorted(dict.fromkeys(names), key=len, reverse=True))

    outputs = (*_OUTPUTS, words.answer, *words.outputs, *words.answers)
    kinds = dict.fromkeys(outputs, "output") | dict.fromkeys((*_TASKS, *words.tasks), "task")
    kinds |= dict.fromkeys(("input", words.input), "input")
    kinds |= dict.fromkeys(("instruction", words.instruction), "instruction")
    own = not words.english
    parts = {
        "words": either("task", "instruction", "item", "exercise", words.instruction, *words.tasks),
        "names": either(*kinds),
        "stops": ".):：）、．" if own else ".):",
        "open": "(（" if own else "(",
        "colons": ":：" if own else ":",
    }
    inline = _INLINE_INPUT
    if own:
        named = rf"[*_]{{0,3}}{re.escape(words.input)}[*_]{{0,3}}{BLANK}?[:：][*_]{{0,3}}"
        inline += rf"|(?<=[.!?:;。！？：；”』」）{STOPS}])[ \t]*{named}"
    no_input = f"{_NO_INPUT}|{either(words.no_input.strip('()（）'), *words.no_inputs)}"
    return _Labels(
        re.compile(_NUMBER % parts, re.IGNORECASE),
        re.compile(_LABEL % parts, re.IGNORECASE),
        re.compile(inline),
        re.compile(f"{_AROUND}(?:{no_input}){_AROUND}", re.IGNORECASE),
        {folded(name): kind for name, kind in kinds.items()},
    )


def parse_task_list(text: str, first_number: int, cut_off: bool, words: Wording = ENGLISH) -> list[Task]:
    """The tasks of a completion of a numbered list, in order; never raises.

    text: what the model wrote after ``{first_number}. Instruction:``.
    first_number: the number of the task that `text` starts in.
    words: of the run's language; its labels and numbers are read beside the English ones.
    cut_off: the completion ended for want of tokens. The last task is then dropped, since it is likely cut off,
    unless its output section had begun (the task before it is whole), or it is the only one and ends a sentence.

    A number opens a task only at a line start, above the last number and not far above it; a number that goes on
    counting a list inside a task (1, 2, 3 ...) is text, unless a label ("7. Instruction:") says otherwise. Sections
    called output, answer, response or solution are dropped. Tasks without an instruction are left out.
    """
    labels = _labels(words)
    items = _read(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), first_number, labels)
    tasks = [_task(item, labels) for item in items]
    if cut_off and items[-1].section != "output" and not (len(tasks) == 1 and _ends_sentence(tasks[0])):
        tasks.pop()
    return [task for task in tasks if task.instruction]


def _read(lines: Sequence[str], first_number: int, labels: _Labels) -> list[_Item]:
    items = [_Item(labelled=True)]  # The label stands at the end of the prompt.
    last, nested, blank_before = first_number, 0, False
    for line in lines:
        number = labels.number.match(line)
        if number:
            value = int(number["a"] or number["b"])
            rest = line[number.end() :]
            labelled = bool(number["word"]) or labels.opens_task(rest)
            untouched = len(items) == 1 and not _written(items[0])
            if value == first_number and untouched:
                line = rest
            elif value > last and (labelled or (value != nested + 1 and value - last <= WIDEST_GAP)):
                items.append(_Item())
                last, nested, line = value, 0, rest
            else:
                nested = value
        _read_line(items, line, blank_before, labels)
        blank_before = not line.strip()
        nested = 0 if blank_before else nested
    return items


def _read_line(items: list[_Item], line: str, blank_before: bool, labels: _Labels) -> None:
    """Add one line, without its number, to the section it belongs to, opening a section or an unnumbered task."""
    item = items[-1]
    label = labels.label.match(line)
    if not label:
        item.append(line)
        return
    name, rest = labels.kind(label), line[label.end() :]
    if name not in ("instruction", "task"):
        # What follows an output is more examples of the same task.
        item.section = "input" if name == "input" and item.section != "output" else "output"
    elif name == "instruction" and _written(item) and (item.section != "instruction" or item.labelled or blank_before):
        items.append(_Item(labelled=True))
    elif item.section == "instruction" and not (item.labelled and _written(item)):
        item.instruction.clear()  # What stood right above the first label was the task's title.
        item.labelled = True
    else:
        rest = line  # "Task:" inside an instruction or an input is text.
    items[-1].append(rest)


def _written(item: _Item) -> bool:
    return item.section != "instruction" or any(line.strip() for line in item.instruction)


def _task(item: _Item, labels: _Labels) -> Task:
    instruction, input_lines = "\n".join(item.instruction), item.input
    if not input_lines and (inline := labels.inline_input.search(instruction)):
        input_lines = instruction[inline.end() :].split("\n")
        instruction = instruction[: inline.start()]
    # Spaces inside a line carry meaning in an input (code, tables), not in an instruction.
    instruction = "\n".join(" ".join(line.split()) for line in instruction.split("\n"))
    return Task(_tidy(instruction), _tidy_input(input_lines, labels))


def _tidy_input(lines: list[str], labels: _Labels) -> str:
    tidy = _tidy("\n".join(lines))
    # After "(none)" a model that goes on writes something else.
    return "" if _BLANK.fullmatch(tidy) or labels.no_input.fullmatch(tidy.split("\n", 1)[0]) else tidy


def _tidy(text: str) -> str:
    """No rules ("###", "---") or blank lines around it, at most one blank line inside, no quotes or bold around it."""
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and _is_empty(lines[-1]):
        lines.pop()
    while lines and _is_empty(lines[0]):
        lines.pop(0)
    tidy = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    previous = None
    while previous != tidy:
        previous, tidy = tidy, _unwrapped(tidy).strip()
    return tidy


def _is_empty(line: str) -> bool:
    return not line.strip() or _RULE_LINE.fullmatch(line) is not None


def _unwrapped(text: str) -> str:
    if text.count("**") == 1:  # The other half stood before the number or label.
        return text.removesuffix("**").removeprefix("**")
    if text.count("**") == 2 and len(text) > 4 and text.startswith("**") and text.endswith("**"):
        return text[2:-2]
    for left, right in _QUOTES:
        inner = text[1:-1]
        if len(text) > 2 and text[0] == left and text[-1] == right and left not in inner and right not in inner:
            return inner
    return text


def _ends_sentence(task: Task) -> bool:
    return (task.input or task.instruction).endswith(_SENTENCE_END)
