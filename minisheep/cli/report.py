"""``minisheep report``: a run as one page to read, send or print."""

from __future__ import annotations

import json

import click

from minisheep.ui.sanitise import one_line


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--out", metavar="FOLDER", help="where report.html and report.md go [RUN/report]")
@click.option("--open", "open_", is_flag=True, help="show it in the browser")
@click.option("--json", "as_json", is_flag=True, help="one JSON object and nothing else")
def report(run: str, out: str | None, open_: bool, as_json: bool) -> None:
    """Write RUN as one HTML file and its Markdown twin.

    What each round did, in words and with intervals; the data funnel with the reason for every drop; distributions,
    loss curves, a map of the data; records to read; settings, versions, hashes. Works offline and on unfinished or
    damaged runs, which it reads and never changes. Pictures need matplotlib: pip install "minisheep[plots]".

    \b
    minisheep report runs/mine --open
    minisheep report runs/mine --out pages/mine
    """
    from minisheep.report.write import write

    written = write(run, out)
    if as_json:
        files = {"html": str(written.html), "markdown": str(written.markdown)}
        click.echo(json.dumps({"event": "Report", **files, "notes": list(written.notes)}))
    else:
        for note in written.notes:
            click.echo(one_line(note), err=True)
        click.echo(one_line(f"Report: {written.html}, and as Markdown: {written.markdown}"))
    if open_ and click.launch(str(written.html.resolve())) != 0:
        click.echo("No browser could be started; open the file yourself.", err=True)
