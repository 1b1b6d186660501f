"""``minisheep``: the list of verbs. Each is imported only when it is called, so that help answers at once."""

from __future__ import annotations

import codecs
import contextlib
import difflib
import errno
import importlib
import io
import json
import os
import sys

import click

from minisheep import __version__
from minisheep.errors import DiskError, MinisheepError, UsageError
from minisheep.rules.plain_text import one_line

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Run": {
        "align": ("minisheep.cli.work", "Align a model with itself: the whole loop, or what is left of it."),
        "pause": ("minisheep.cli.steer", "Let a run wait, from any terminal."),
        "resume": ("minisheep.cli.steer", "Let a paused run go on."),
        "stop": ("minisheep.cli.steer", "Stop a run, from any terminal; `align` continues it."),
        "doctor": ("minisheep.cli.doctor", "Check whether this machine can do a run, and say how to fix it."),
        "plan": ("minisheep.cli.plan", "Show what a run will take: memory, disk and time."),
        "models": ("minisheep.cli.models", "List built-in models; show or clear what was downloaded."),
        "pull": ("minisheep.cli.models", "Download a model's files and check them, for later runs."),
    },
    "Look": {
        "runs": ("minisheep.cli.status", "List the runs of a folder: what each is doing, or came to."),
        "status": ("minisheep.cli.status", "Show how far a run is and what each round did."),
        "attach": ("minisheep.cli.status", "Show the screen of a run, while it runs or afterwards."),
        "report": ("minisheep.cli.export", "Write a run as one HTML page: results, data, plots."),
        "browse": ("minisheep.cli.browse", "Page through what a run made, and why it was kept or dropped."),
        "compare": ("minisheep.cli.compare", "Several runs side by side: their settings and own measures."),
        "versus": ("minisheep.cli.versus", "Two rounds of a run before an outside judge: whose answers win."),
        "log": ("minisheep.cli.export", "Show a finished run in TensorBoard, Weights & Biases or trackio."),
        "eval": ("minisheep.cli.eval", "Public benchmarks (lm-evaluation-harness) for a run or a model."),
    },
    "Use": {
        "chat": ("minisheep.cli.chat", "Talk to a run's best round, any other, or its base."),
        "serve": ("minisheep.cli.serve", "Serve a run's model to programs that speak OpenAI's API."),
        "export": ("minisheep.cli.export", "Make a round into a GGUF, an Ollama model, safetensors or a hub folder."),
    },
    "Advanced": {
        "exam": ("minisheep.cli.work", "Phase: can the model judge? It is examined on seed tasks."),
        "generate": ("minisheep.cli.work", "Phase: the model writes instructions."),
        "respond": ("minisheep.cli.work", "Phase: the model answers them."),
        "judge": ("minisheep.cli.work", "Phase: the model judges its answers."),
        "filter": ("minisheep.cli.work", "Phase: rules and scores choose what is kept."),
        "train": ("minisheep.cli.work", "Phase: an adapter is trained on what was kept."),
        "evaluate": ("minisheep.cli.work", "Phase: the round is measured on the run's own held-out tasks."),
        "soup": ("minisheep.cli.soup", "Join the adapters of several rounds to one, and measure it."),
        "handoff": ("minisheep.cli.export", "Write a round's data and a configuration for Axolotl or LLaMA-Factory."),
        "convert": ("minisheep.cli.models", "Write a folder of weights as a GGUF."),
        "completion": ("minisheep.cli.completion", "Complete commands, runs, models and flags with the Tab key."),
    },
}
"""Verbs as help shows them: each with its module and one line."""
VERBS = {verb: where for group in GROUPS.values() for verb, where in group.items()}


class Verbs(click.Group):
    """A group whose commands live in modules named in `VERBS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = getattr(importlib.import_module(VERBS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            ctx.fail(f"No such command {args[0]!r}." + (f" Nearest: {near[0]}." if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # All texts begin in one column, whatever the longest verb of a group.
        width = max(map(len, VERBS))
        for title, verbs in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(verb.ljust(width), text) for verb, (_, text) in verbs.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="minisheep")
def cli() -> None:
    """A language model aligns itself from scratch (I-SHEEP): it writes instructions and answers, judges them, trains a
    LoRA adapter on the best, and starts the next round with it.

    \b
    minisheep align --preset demo        two rounds of a tiny model, on any PC
    minisheep align --model qwen1.5-7b   the method on one consumer GPU
    minisheep status RUN                 how far it is, and what each round did

    To continue an interrupted run, give the same command again.
    """


WORKS = "minisheep.cli.work"
"""The verbs whose results are in a run folder, whether anybody reads along or not."""


def main(commands: click.Group = cli, name: str = "minisheep") -> None:
    """A user's mistake becomes one line on stderr and an exit code (MINISHEEP_RAISE=1 shows the traceback)."""
    if commands is cli and (wish := os.environ.get("_MINISHEEP_COMPLETE")):
        from minisheep.cli.completion import answer

        answer(wish)
        return
    closed = _ready_output()
    code = _exit_code(commands, name)
    if not _flushed() and code == 0:
        _report(DiskError.__name__, "The output could not be written.", "Fix this and give the same command again.")
        code = DiskError.exit_code
    if closed and closed.lost and code == 0:
        _report(DiskError.__name__, "The output is closed, so what it was to show is lost.", "")
        code = 0 if _works() else DiskError.exit_code
    sys.exit(code)


def _exit_code(commands: click.Group, name: str) -> int:
    try:
        # Without standalone mode click returns the code of an Exit instead of exiting with it.
        code = commands.main(prog_name=name, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else name
        _report("UsageError", error.format_message(), f"`{command} --help` lists the options.")
        return error.exit_code
    except click.Abort:
        return 130
    except BrokenPipeError:
        # Whoever reads a part of what is shown needs no word; a run that stops for it does.
        if _works():
            told = "Nobody reads the output any more, so the run stopped. It can be continued."
            click.echo(f"minisheep: {told}", err=True)
        return 1
    except MinisheepError as error:
        if os.environ.get("MINISHEEP_RAISE"):
            raise
        _report(type(error).__name__, error.message, error.fix)
        return error.exit_code
    except UnicodeEncodeError as error:
        if os.environ.get("MINISHEEP_RAISE"):
            raise
        what = repr(error.object[max(0, error.start - 60) : error.end + 20])
        _report("UsageError", f"A name holds bytes that are no UTF-8: {what}.", "Give the file or folder another name.")
        return UsageError.exit_code
    except OSError as error:
        if os.environ.get("MINISHEEP_RAISE"):
            raise
        try:
            os.getcwd()
            what, fix = f"The system refused: {error}.", "Fix this and give the same command again."
        except OSError:  # then any relative path is said to be missing, which blames the wrong thing
            what = "The folder that this shell is in was deleted."
            fix = "Go to another (cd ~) and give the command again."
        _report(DiskError.__name__, what, fix)
        return DiskError.exit_code


class Nowhere(io.StringIO):
    """Stands for an output that is closed, and knows whether anything was meant for it."""

    lost = False

    def write(self, text: str) -> int:
        self.lost = True
        return len(text)


class AsciiOutput(io.TextIOWrapper):
    """An output that takes ASCII alone, with ``?`` for the rest. It names another encoding, since click takes a system
    that names ASCII for misconfigured, and writes UTF-8."""

    encoding = "iso-8859-1"


def _ready_output() -> Nowhere | None:
    """Let no terminal refuse a character, and no closed output end the work: the stand-in for one that is closed."""
    # The next files to be opened would take the numbers of closed streams, and a child takes those for its own.
    while (handle := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(handle)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115  # for the life of the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")
    if isinstance(sys.stdout, io.TextIOWrapper) and codecs.lookup(sys.stdout.encoding).name == "ascii":
        buffering = sys.stdout.line_buffering
        sys.stdout = AsciiOutput(sys.stdout.detach(), encoding="ascii", errors="replace", line_buffering=buffering)
    if sys.stderr is None:
        sys.stderr = Nowhere()
    if sys.stdout is not None:
        return None
    sys.stdout = stand_in = Nowhere()
    return stand_in


def _flushed() -> bool:
    """Whether all output is written; what the system refuses is dropped, or Python would fail on it while it ends."""
    try:
        sys.stdout.flush()
        return True
    except OSError as error:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return error.errno == errno.EPIPE


def _works() -> bool:
    verb = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    return VERBS.get(verb, ("",))[0] == WORKS


def _report(kind: str, message: str, fix: str) -> None:
    """Report an error as one line on stderr, or for ``--json`` as an event on stdout."""
    if "--json" in sys.argv[1:] and not isinstance(sys.stdout, Nowhere):
        # Where that is what fails, there is still the other way.
        with contextlib.suppress(OSError):
            click.echo(json.dumps({"event": "Failed", "kind": kind, "message": message, "fix": fix}))
            return
    with contextlib.suppress(OSError):
        click.echo(f"minisheep: {one_line(f'{message} {fix}')}", err=True)
