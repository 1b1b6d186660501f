"""Two things made from the commands themselves (``make docs``): docs/commands.md, and with ``--completion`` what shells
complete."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

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


KINDS = {
    "RUN": "run", "RUN...": "run", "RUN|MODEL": "run model", "MODEL": "model", "GPU": "gpu", "METRIC": "metric",
    "METRIC,...": "metric", "NAME,...": "task", "LANG": "language", "N,N,...": "round", "DIR": "dir", "FOLDER": "dir",
}  # fmt: skip
"""What shells complete, by a parameter's metavar."""
FLAGS: dict[str, str | list[str]] = {
    "--run": "run", "--rule": "rule", "--model": "model", "--log-to": ["tensorboard", "wandb", "trackio"],
}  # fmt: skip
"""The same, for flags whose metavar says less."""


def completion_table() -> dict[str, Any]:
    """What `cli.completion` answers from: the line of each verb; the kind of each of its arguments and options, or the
    verb that takes the same; and the words of kinds that are the same everywhere."""
    from minisheep.data.languages import NAMES
    from minisheep.evals.tasks import FIELDS
    from minisheep.models.registry import HubRepo, load_registry
    from minisheep.plan.gpu_models import gpu_models
    from minisheep.run.metric_catalogue import CATALOGUE
    from minisheep.terminal.record_browser import MEANINGS

    entries = load_registry().values()
    hub = {entry.weights.repo if isinstance(entry.weights, HubRepo) else entry.hub for entry in entries} - {""}
    verbs: dict[str, Any] = {}
    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        takes = _takes(command)
        same = next((name for name, other in verbs.items() if other == takes), None)
        verbs[verb] = same or takes
    words = {
        "model": [*(entry.name for entry in entries), *sorted(hub)],
        "gpu": sorted({gpu.title.lower().replace(" ", "-") for gpu in gpu_models()}),
        "rule": sorted({name.partition(".")[2] for name in MEANINGS}),
        "metric": [metric.name for metric in CATALOGUE],
        "task": list(FIELDS),
        "language": list(NAMES),
    }
    return {"lines": {verb: text for verb, (_, text) in VERBS.items()}, "words": words, "verbs": verbs}


def _takes(command: click.Command) -> dict[str, Any]:
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    options: dict[str, Any] = {"--help": ""}
    for option in command.params:
        if isinstance(option, click.Option):
            for flag in (*option.opts, *option.secondary_opts):
                options[flag] = "" if option.is_flag else _kind(option, FLAGS.get(flag))
    return {
        "arguments": [_kind(argument, None) for argument in arguments],
        "many": any(argument.nargs == -1 for argument in arguments),
        "options": options,
    }


def _kind(parameter: click.Parameter, known: str | list[str] | None) -> Any:
    """A list of choices, or the name of a kind; ``-`` for a value of which nothing is known."""
    if isinstance(parameter.type, click.Choice):
        return list(parameter.type.choices)
    metavar = parameter.metavar or (str(parameter.name).upper() if isinstance(parameter, click.Argument) else "")
    if "--round" in parameter.opts or "--against" in parameter.opts:
        # Which words a command takes beside numbers stands in its help.
        text = str(getattr(parameter, "help", ""))
        others = "best last base" if "likewise" in text else " ".join(re.findall(r"\b(?:best|last|base)\b", text))
        return " ".join(dict.fromkeys(f"round {others}".split()))
    return known or KINDS.get(metavar) or ("file" if "FILE" in metavar or "PATH" in metavar else "-")


if __name__ == "__main__":
    if sys.argv[1:] == ["--completion"]:
        click.echo(json.dumps(completion_table(), separators=(",", ":")))
    else:
        click.echo(markdown(), nl=False)
