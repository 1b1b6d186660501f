"""``minisheep completion``: what makes a shell complete our commands and flags."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands, flags and choices with the Tab key.

    \b
    echo 'eval "$(minisheep completion bash)"' >> ~/.bashrc
    echo 'eval "$(minisheep completion zsh)"' >> ~/.zshrc
    minisheep completion fish > ~/.config/fish/completions/minisheep.fish
    """
    from minisheep.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "minisheep", "_MINISHEEP_COMPLETE").source())
