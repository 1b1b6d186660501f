"""The command reference (``python -m minisheep.cli.reference > docs/commands.md``) and ``minisheep completion``."""

from __future__ import annotations

from collections.abc import Iterator

import click
from click.shell_completion import get_completion_class

from minisheep.cli.main import VERBS, cli

WIDTH = 100
HEAD = """# Commands

Made from the code by `make docs`, and checked by the tests. `--help` of each command shows the same text.

"""


def markdown() -> str:
    """The whole page: the ``--help`` of every command, in the order of the list."""
    return HEAD + "\n".join(_sections())


def _sections() -> Iterator[str]:
    top = _context(cli, "minisheep", None)
    yield f"```\n{top.get_help()}\n```\n"
    align = cli.get_command(top, "align")
    assert align is not None
    for verb in VERBS:
        command = cli.get_command(top, verb)
        assert command is not None
        yield from _command(command, verb, top, align)


def _command(command: click.Command, name: str, above: click.Context, align: click.Command) -> Iterator[str]:
    context = _context(command, name, above)
    yield f"## {context.command_path}\n"
    if command is not align and _flags(command) == _flags(align):
        yield f"```\n{_without_options(context)}\n```\n"
        yield "Its options are those of [minisheep align](#minisheep-align).\n"
        return
    yield f"```\n{context.get_help()}\n```\n"
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            inner = command.get_command(context, below)
            assert inner is not None
            yield from _command(inner, below, context, align)


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


def _flags(command: click.Command) -> list[str | None]:
    return [parameter.name for parameter in command.params]


def _without_options(context: click.Context) -> str:
    formatter = context.make_formatter()
    context.command.format_usage(context, formatter)
    context.command.format_help_text(context, formatter)
    return formatter.getvalue().rstrip("\n")


SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a script with which a shell completes commands, flags and choices by the Tab key.

    \b
    echo 'eval "$(minisheep completion bash)"' >> ~/.bashrc
    echo 'eval "$(minisheep completion zsh)"' >> ~/.zshrc
    minisheep completion fish > ~/.config/fish/completions/minisheep.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "minisheep", "_MINISHEEP_COMPLETE").source())


if __name__ == "__main__":
    click.echo(markdown(), nl=False)
