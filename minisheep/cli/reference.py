"""The command reference (``python -m minisheep.cli.reference > docs/commands.md``)."""

from __future__ import annotations

from collections.abc import Iterator

import click

from minisheep.cli.main import VERBS, cli
from minisheep.cli.options import OWN, GroupedCommand, write_sections

WIDTH = 100
HEAD = """# Commands

Made from the code by `make docs`, and checked by the tests. `--help` of each command shows the same, with
all of its flags.

Five verbs compare or measure, each something else:

| verb | what is measured | on what | by whom |
|---|---|---|---|
| `exam` | the judge, before a round | seed tasks with right and spoiled answers | known answers |
| `evaluate` | a round's model, as a phase of the run | the run's own held-out tasks | likelihoods and programs |
| `compare` | nothing new: several runs side by side | what their `evaluate` stored | |
| `versus` | a round's answers against another's | the same tasks, or prompts of yours | an outside model |
| `eval` | a round's or any model | public benchmarks: IFEval, TriviaQA ... | lm-evaluation-harness |

How fast minisheep is beside other programs is no verb: `make bench`.

"""
SHARED = """## Flags of a run

Of every command that makes or continues a run. Each below `What to align` is also a key of a settings file
(`--answer-max-tokens 200` is `answer_max_tokens = 200`) and an argument of `minisheep.align` in Python.
"""


def markdown() -> str:
    """The whole page: the ``--help`` of every command, in the order of the list, with what they share once."""
    return HEAD + "\n".join(_sections())


def _sections() -> Iterator[str]:
    top = _context(cli, "minisheep", None)
    yield f"```\n{top.get_help()}\n```\n"
    shared: dict[str, list[tuple[str, str]]] = {}
    for verb in VERBS:
        command = cli.get_command(top, verb)
        assert command is not None
        context = _context(command, verb, top)
        yield f"## {context.command_path}\n"
        if not isinstance(command, GroupedCommand):
            yield f"```\n{context.get_help()}\n```\n"
            continue
        own = command.sections(context)
        shared = {title: rows for title, rows in own.items() if title != OWN}
        formatter = context.make_formatter()
        command.format_usage(context, formatter)
        command.format_help_text(context, formatter)
        write_sections({OWN: own[OWN]}, formatter)
        yield f"```\n{_text(formatter)}\n```\n"
        yield "And the [flags of a run](#flags-of-a-run).\n"
    formatter = top.make_formatter()
    write_sections(shared, formatter)
    yield f"{SHARED}\n```\n{_text(formatter)}\n```\n"


def _text(formatter: click.HelpFormatter) -> str:
    return formatter.getvalue().strip("\n")


def _context(command: click.Command, name: str, above: click.Context | None) -> click.Context:
    # The width of the terminal must not decide what the page says.
    return click.Context(
        command,
        info_name=name,
        parent=above,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )


if __name__ == "__main__":
    click.echo(markdown(), nl=False)
