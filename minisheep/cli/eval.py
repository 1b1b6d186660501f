"""``minisheep eval``: a run's rounds, or one model, on tasks of lm-evaluation-harness."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minisheep.cli.options import view_options

if TYPE_CHECKING:
    from minisheep.evals.tasks import EvalSpec

OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--tasks", {"required": True, "metavar": "NAME,...", "help": "names of tasks, e.g. ifeval,triviaqa"}),
    (
        "--data",
        {"multiple": True, "metavar": "[TASK=]FILE", "help": "rows of the task as JSON lines; then no network is used"},
    ),
    ("--round", {"multiple": True, "metavar": "N", "help": "only this round of the run: a number, best, last or base"}),
    ("--base", {"is_flag": True, "help": "only the run's base model, or with --round N both"}),
    ("--limit", {"type": click.IntRange(1), "metavar": "N", "help": "the first N items of each task"}),
    ("--shots", {"type": click.IntRange(0), "metavar": "N", "help": "examples in a prompt; default: as the task says"}),
    ("--max-tokens", {"type": click.IntRange(1), "metavar": "N", "help": "new tokens of an answer at most"}),
    (
        "--frame",
        {
            "type": click.Choice(("auto", "template", "plain")),
            "default": "auto",
            "help": "template: as a chat; plain: the task's bare text; auto: template for a run and its base alike and"
            " for an instruct model, plain for a base model",
        },
    ),
    ("--template", {"default": "auto", "metavar": "NAME", "help": "chat template of a lone MODEL, as for align"}),
    (
        "--allow-code-execution",
        {"is_flag": True, "help": "run the programs that the model writes (humaneval, mbpp), with your rights"},
    ),
    ("--offline", {"is_flag": True, "help": "use only the cache, no network"}),
    ("--again", {"is_flag": True, "help": "measure again what is already stored"}),
    ("--out", {"metavar": "DIR", "help": "where results go [RUN/eval, or eval/MODEL]"}),
    ("--context", {"type": click.IntRange(256), "default": 2048, "metavar": "N", "help": "tokens a sequence [2048]"}),
    ("--slots", {"type": click.IntRange(0, 255), "default": 0, "metavar": "N", "help": "sequences at once; 0: as fit"}),
    ("--threads", {"type": click.IntRange(0), "default": 0, "metavar": "N", "help": "CPU threads; 0: all"}),
)  # fmt: skip


@click.command(name="eval")
@click.argument("target", metavar="RUN|MODEL")
@view_options
def command(target: str, plain: bool, as_json: bool, **given: Any) -> None:
    """Measure a run (its base and every round, side by side) or one model on tasks of lm-evaluation-harness.

    Results are stored with every item, and reused until something changes.

    \b
    minisheep eval runs/mine --tasks ifeval
    minisheep eval runs/mine --tasks ifeval --data ifeval.jsonl --limit 50
    minisheep eval smollm2-135m --tasks triviaqa,squadv2 --limit 200
    """
    from minisheep.evals import eval_run
    from minisheep.terminal.views import JsonView, LiveView, choose_view

    spec = _spec(target, **given)
    with closing(choose_view(plain=plain, as_json=as_json)) as view:
        results = eval_run.measure(spec, view, view.tick)
    if isinstance(view, JsonView):
        for item in eval_run.objects(results):
            click.echo(json.dumps(item))
    elif isinstance(view, LiveView):
        eval_run.print_tables(results)
    else:
        for line in (*eval_run.lines(results), *eval_run.notes(results)):
            click.echo(line)


def _spec(
    target: str,
    *,
    tasks: str,
    data: tuple[str, ...],
    round: tuple[str, ...],
    base: bool,
    limit: int | None,
    max_tokens: int | None,
    out: str | None,
    allow_code_execution: bool,
    **same: Any,
) -> EvalSpec:
    """The specification, checked as far as possible without a model; `evals.eval_run` says what it refuses."""
    from minisheep.evals import eval_run
    from minisheep.evals.tasks import EvalSpec

    names = eval_run.task_names(tasks)
    eval_run.check_installed()
    files = eval_run.data_files(data, names)
    run, model = eval_run.target(target)
    rounds = eval_run.rounds(run, round, base, lambda text: click.echo(text, err=True))
    folder = Path(out) if out else eval_run.default_out(run, model)
    return EvalSpec(
        out=str(folder.absolute()), tasks=names, run=run, model=model, rounds=rounds, data=files, limit=limit or 0,
        max_tokens=max_tokens or 0, allow_code=allow_code_execution, **same,
    )  # fmt: skip


for _flag, _settings in reversed(OPTIONS):
    command = click.option(_flag, **_settings)(command)

eval = command
"""The verb, by its name (`cli.main`)."""
