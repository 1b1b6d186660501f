"""``minisheep completion``, and what a shell is answered when Tab is pressed.

An answer must come in a fifth of a second, and most verbs take longer to import. So what the verbs take is kept in
``data/completion.json``, which `make docs` makes from the code; only the runs, their rounds and files are looked up
while somebody waits.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

TABLE = Path(__file__).parent.parent / "data" / "completion.json"
SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_MINISHEEP_COMPLETE"
COMPDEF = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n"
"""zsh's completion, where nothing has started it yet."""
FILE, FOLDER = CompletionItem("", type="file"), CompletionItem("", type="dir")
"""Ask the shell for its own completion of files, or of folders."""
SAFE = re.compile(r"[\w./~@%+,-]+")
"""What needs no quotes in any shell; the rest is left to the shell's own completion of folders, which quotes it."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a script with which a shell completes verbs, flags, runs, rounds, models, GPUs and files by the Tab key.

    \b
    minisheep completion bash > ~/.minisheep.bash
    echo '. ~/.minisheep.bash' >> ~/.bashrc
    minisheep completion zsh > ~/.minisheep.zsh
    echo '. ~/.minisheep.zsh' >> ~/.zshrc
    minisheep completion fish > ~/.config/fish/completions/minisheep.fish
    """
    # A file, since a new shell may have no `minisheep` before its environment is activated.
    click.echo((COMPDEF if shell == "zsh" else "") + _shell(shell).source())


def _shell(name: str) -> Any:
    kind = get_completion_class(name)
    assert kind is not None
    return kind(click.Group("minisheep"), {}, "minisheep", VARIABLE)


def answer(wish: str) -> None:
    """Answer a shell: `wish` is what click's scripts put in the variable, as ``bash_complete``. Never raises: nobody
    wants a traceback at the prompt."""
    name, _, what = wish.partition("_")
    with contextlib.suppress(Exception):
        shell = _shell(name)
        if what == "source":
            click.echo(shell.source())
            return
        for item in items(*shell.get_completion_args()):
            click.echo(shell.format_completion(item))


def items(args: Sequence[str], incomplete: str) -> list[CompletionItem]:
    """What `incomplete` may become after the words `args`."""
    # bash takes --run=x apart at the sign.
    words = [word for word in args if word != "="]
    incomplete = "" if incomplete == "=" else incomplete
    verb = next((word for word in words if not word.startswith("-")), None)
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    if verb is None:
        top = {"--help": "", "--version": ""} if incomplete.startswith("-") else table["lines"]
        return [CompletionItem(word, help=text or None) for word, text in top.items() if word.startswith(incomplete)]
    takes = table["verbs"].get(verb)
    takes = table["verbs"][takes] if isinstance(takes, str) else takes
    if takes is None:
        return []
    options: dict[str, Any] = takes["options"]
    pending, places, run = _read(words[words.index(verb) + 1 :], takes)
    flag, sign, value = incomplete.partition("=")
    if pending is None and flag.startswith("-"):
        if not sign:
            return [CompletionItem(word) for word in options if word.startswith(incomplete)]
        found = list(_values(options.get(flag, ""), value, run, table["words"]))
        return [CompletionItem(f"{flag}={item.value}", type=item.type) for item in found if item.type == "plain"]
    if pending is None:
        arguments = takes["arguments"]
        if not arguments or (places >= len(arguments) and not takes["many"]):
            return []
        pending = arguments[min(places, len(arguments) - 1)]
    return list(_values(pending, incomplete, run, table["words"]))


def _read(words: Sequence[str], takes: dict[str, Any]) -> tuple[Any, int, str]:
    """The kind of value that is awaited, None if none is; how many arguments were given; the run that was named."""
    pending: Any = None
    places, run = 0, ""
    for word in words:
        if pending is not None:
            run, pending = word if pending == "run" else run, None
        elif word.startswith("-"):
            flag, sign, value = word.partition("=")
            kind = takes["options"].get(flag, "")
            run = value if kind == "run" and sign else run
            pending = kind if kind and not sign else None
        else:
            if places < len(takes["arguments"]) and "run" in takes["arguments"][places]:
                run = word
            places += 1
    return pending, places, run


def _values(kind: Any, incomplete: str, run: str, words: dict[str, list[str]]) -> Iterator[CompletionItem]:
    if isinstance(kind, list):
        yield from _starting(kind, incomplete)
    elif kind.startswith("round"):
        done, _, last = incomplete.rpartition(",")
        names = [*kind.split()[1:], *(str(number) for number in _rounds(run))]
        yield from _starting([f"{done},{name}" if done else name for name in names], incomplete)
    elif kind in ("file", "dir"):
        yield FILE if kind == "file" else FOLDER
    elif kind in words and kind != "model":
        done, sign, last = incomplete.rpartition(",")
        yield from (CompletionItem(done + sign + item.value) for item in _starting(words[kind], last))
    elif "model" in kind:
        runs = [item for item in _runs(incomplete) if item.type == "plain"] if kind != "model" else []
        # Ids of the hub are many and long, so they wait for their slash.
        known = [name for name in words["model"] if ("/" in name) == ("/" in incomplete)]
        here = [] if "/" in incomplete else [path.name for path in Path().glob("*.gguf")]
        yield from [*runs, *_starting([*known, *here], incomplete)] or [FILE]
    elif kind == "run":
        yield from _runs(incomplete)


def _starting(words: Sequence[str], beginning: str) -> list[CompletionItem]:
    """Those that begin so, in any case; else, as for the 5090 of ``rtx-5090-32gb``, those that hold it."""
    begun = [word for word in words if word.lower().startswith(beginning.lower())]
    return [CompletionItem(word) for word in begun or words if beginning.lower() in word.lower()]


def _rounds(run: str) -> list[int]:
    with contextlib.suppress(OSError):
        names = [re.fullmatch(r"round-(\d+)", name) for name in os.listdir(os.path.expanduser(run or "."))]
        return sorted(int(name[1]) for name in names if name)
    return []


def _runs(incomplete: str) -> list[CompletionItem]:
    """Run folders that begin so: those in runs/ and here, or those beside what is typed. Where other folders begin so
    too, runs may lie deeper, and the shell completes folders."""
    begun, _, _ = incomplete.rpartition("/")
    places = [f"{begun}/"] if begun or incomplete.startswith(("~", "/")) else ["runs/", ""]
    found, others = [], False
    for place in places:
        with contextlib.suppress(OSError):
            for path in sorted(Path(os.path.expanduser(place or ".")).iterdir()):
                name = place + path.name
                if not name.startswith(incomplete) or not path.is_dir() or path.name.startswith("."):
                    continue
                if (path / "manifest.json").is_file() or (path / "run.toml").is_file():
                    found.append(name)
                else:
                    others |= name != "runs" and bool(begun or incomplete)
    if not found or others or not all(SAFE.fullmatch(name) for name in found):
        return [FOLDER]
    return [CompletionItem(name) for name in found]
