"""A flag for every setting, made from the settings themselves; and lines that fit the terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from minisheep import config
from minisheep.errors import UsageError
from minisheep.models.registry import absolute_paths
from minisheep.presets import DEFAULT_PRESET, PRESET_NOTES, PRESETS

F = TypeVar("F", bound=Callable[..., Any])

GROUPS = {
    "model": "What to align",
    "loop": "The loop",
    "generate": "Writing instructions",
    "respond": "Answering",
    "constraints": "Constraints that a program checks",
    "judge": "Judging and keeping",
    "train": "Training",
    "evaluate": "Measuring",
    "engine": "The machine",
    "server": "A server that runs the model",
}
"""Settings by their groups in `config`, as help names them."""
OWN = "Options"
"""The heading of what only the one command has."""
ABOUT = {
    "run": "The run",
    "preset": "The run",
    "config_file": "The run",
    "plain": "Output",
    "as_json": "Output",
    "log_to": "Output",
}
"""Where the other flags stand that such commands share."""
METAVARS = {
    "model": "MODEL", "gguf": "FILE", "weights": "DIR", "seeds": "FILE", "prompts": "DIR", "constraint_file": "FILE",
    "engine_url": "URL", "engine_model": "NAME", "engine_key_env": "VAR", "engine_hook": "FILE", "language": "LANG",
    "keep": "WHAT",
}  # fmt: skip


class GroupedCommand(click.Command):
    """Shows flags under headings: its own, those of every run, settings by their groups, and the output."""

    def sections(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """Flag and text of every option by heading."""
        found: dict[str, list[tuple[str, str]]] = {title: [] for title in (OWN, "The run", *GROUPS.values(), "Output")}
        for parameter in self.get_params(ctx):
            record, name = parameter.get_help_record(ctx), str(parameter.name)
            if record is not None:
                group = GROUPS[config.group_of(name)] if name in config.Settings.model_fields else OWN
                found[ABOUT.get(name, group)].append(record)
        return {title: records for title, records in found.items() if records}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_sections(self.sections(ctx), formatter)


def write_sections(sections: dict[str, list[tuple[str, str]]], formatter: click.HelpFormatter) -> None:
    for title, records in sections.items():
        with formatter.section(title):
            formatter.write_dl(records)


def _kind(name: str) -> Any:
    choices = config.choices_of(name)
    if choices:
        return click.Choice(choices)
    annotation = config.Settings.model_fields[name].annotation
    base: Any = get_args(annotation)[0] if get_args(annotation) else annotation
    return base if base in (int, float) else str


def setting_options(function: F) -> F:
    """Every setting as a flag. It is None unless the user gave it."""
    for name in reversed(config.names()):
        field = config.Settings.model_fields[name]
        usual = PRESETS[DEFAULT_PRESET].get(name, field.default)
        shown = "" if usual in ("", None) else f" [{usual}]"
        text = f"{field.description}{shown}"
        if field.annotation is bool:
            option = click.option(f"{config.flag(name)}/--no-{name.replace('_', '-')}", name, default=None, help=text)
        elif name == "log_to":
            # One setting, so that a run remembers it, and a flag that may be given again.
            option = click.option(
                config.flag(name), name, multiple=True, help=text, metavar="NAME",
                callback=lambda _context, _parameter, given: ",".join(given) or None,
            )  # fmt: skip
        else:
            option = click.option(
                config.flag(name), name, type=_kind(name), default=None, help=text, metavar=_metavar(name)
            )
        function = option(function)
    return function


def _metavar(name: str) -> str | None:
    if config.choices_of(name):
        return None
    return METAVARS.get(name) or {int: "N", float: "X"}.get(_kind(name), "TEXT")


def given_settings(
    config_file: str | None, preset: str | None, flags: dict[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """The settings that the user gave in a file and by flags (which win), and the preset."""
    given = absolute_paths(config.read_toml(Path(config_file)), Path(config_file).parent) if config_file else {}
    file_preset = given.pop("preset", None)
    if file_preset is not None and file_preset not in list(PRESETS):
        raise UsageError(f"{config_file}: there is no preset {file_preset!r}.", f"Presets: {', '.join(PRESETS)}.")
    given.update(absolute_paths({name: value for name, value in flags.items() if value is not None}))
    return given, preset or file_preset


def view_options(function: F) -> F:
    function = click.option("--json", "as_json", is_flag=True, help="one JSON object a line, and nothing else")(
        function
    )
    return click.option("--plain", is_flag=True, help="plain lines without colours or progress bars")(function)


def run_options(function: F) -> F:
    function = click.option(
        "--config", "config_file", metavar="FILE", help="settings in a TOML file; flags override it"
    )(function)
    function = click.option(
        "--preset",
        type=click.Choice(tuple(PRESETS)),
        help="; ".join(f"{name}: {note}" for name, note in PRESET_NOTES.items()),
    )(function)
    return click.option("--run", metavar="DIR", help="the run folder; default: runs/MODEL[-PRESET]")(function)


def fitted(text: str, indent: int = 0) -> list[str]:
    """The lines of `text` on the terminal that stdout is, broken at blanks alone, so that no flag or path is; those
    after the first behind `indent` blanks. `text` itself in a pipe."""
    if not (columns := shutil.get_terminal_size().columns if sys.stdout.isatty() else 0):
        return [text]
    blanks, width = " " * indent, max(columns, 2 * indent)
    return textwrap.wrap(text, width, subsequent_indent=blanks, break_on_hyphens=False, break_long_words=False)
