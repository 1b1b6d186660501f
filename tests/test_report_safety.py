"""Nothing that a model wrote changes anything but text: not the page, not the Markdown, not a figure."""

from __future__ import annotations

import dataclasses
import html as entities
import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from measured_runs import measured_run
from tiny_runs import tiny_run

from minisheep.report import plots
from minisheep.report.blocks import (
    Bar,
    Bars,
    Charts,
    Document,
    HistogramBlock,
    Items,
    ListItem,
    Paragraph,
    Sample,
    Samples,
    Section,
    Table,
)
from minisheep.report.gather import gather
from minisheep.report.write import document, fenced, html_page, inline, markdown, paragraph, write
from minisheep.rules.plain_text import one_line, sanitise
from minisheep.run.folder import replace_records
from minisheep.run.records import Example, Rejection

PIECES = [
    "<script>document.title='owned'</script>", "</script>", "<img src=x onerror=alert(1)>", "</style>", "<!--", "-->",
    "</div></article></section>", "<svg onload=alert(1)>", "]]>", "<![CDATA[", "<iframe src=http://x.example>",
    '" onmouseover="alert(1)', "' autofocus onfocus='alert(1)", "&lt;", "&#60;", "&amp;amp;", "&", "<", ">", '"', "'",
    "javascript:alert(1)", "http://x.example/a.png", "![](http://x.example/a.png)", "[a](javascript:alert(1))",
    "```", "````", "~~~", "`", "|", "\n| a | b |\n", "\n# head\n", "\n---\n", "\n- item", "\n1. one", "> quoted",
    "<textarea>", "<title>", "<plaintext>", "<base href=http://x.example>", "<link rel=stylesheet href=//x.example>",
    "@import url(http://x.example)", "{{7*7}}", "${7*7}", "{% x %}", "%s", "{0}", "\\", "\x00", "\x1b[2J", "\r",
    "\r\n", "\u202egnp.exe", "\u2066", "\ufeff", "\ud800", "\u2028", "\U000e0041", "www.x.example", "a@x.example",
    "word", "羊", "🐑", "\ufffe", "\uffff", "\n", "\t", " ", "$x$", "*b*", "__c__", "==d==", "<br>", "=", "+ a",
    "\n    code",
]  # fmt: skip
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]")
OURS = frozenset({"anchor", "name", "level", "left"})
"""Fields of blocks that no model's text is ever in."""


def hostile(chance: random.Random) -> str:
    return "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 6)))


def hostile_document(seed: int, count: int) -> Document:
    """A document of every kind of block with about `count` hostile strings."""
    chance = random.Random(seed)

    def text() -> str:
        return hostile(chance)

    samples = tuple(Sample(text(), (text(), text()), text(), text(), text()) for _ in range(count // 10))
    table = Table((text(), text(), text()), tuple((text(), text(), text()) for _ in range(count // 9)), text())
    items = Items(tuple(ListItem(text(), "warning", text()) for _ in range(count // 24)))
    histogram = HistogramBlock("odd", text(), text(), (0.0, 1.0), ((text(), (3,)),))
    blocks = (Paragraph(text()), items, table, Samples(samples), Charts((histogram,), text()))
    sections = (Section("a", text(), blocks), Section("b", text(), (Bars(text(), (Bar(text(), 3, text()),)),)))
    return Document(text(), text(), ((text(), text()),), sections)


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The same blocks with every text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, tuple):
        parts = [mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in OURS}
        return dataclasses.replace(value, **{name: mapped(part, change) for name, part in fields.items()})
    return value


class Seen(HTMLParser):
    """Tags with the names of their attributes, and the text between them."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, ...]] = []
        self.text: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}",))

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment",))

    def unknown_decl(self, data: str) -> None:
        self.tags.append(("declaration",))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def strings(value: Any) -> list[str]:
    found: list[str] = []
    mapped(value, lambda text: found.append(text) or text)  # type: ignore[func-returns-value]
    return found


@pytest.mark.parametrize("seed", range(10))
def test_of_ten_thousand_hostile_strings_none_changes_the_page(seed: int) -> None:
    told = hostile_document(seed, 1000)
    assert len(strings(told)) >= 1000
    seen, plain = Seen(html_page(told, {})), Seen(html_page(mapped(told, lambda text: "x" if text else text), {}))
    assert seen.tags == plain.tags
    shown = "".join(seen.text)
    assert not CONTROL.search(shown)
    for section in told.sections:
        for block in section.blocks:
            if isinstance(block, Samples):
                assert all(sanitise(sample.output) in shown for sample in block.samples)


@pytest.mark.parametrize("seed", range(10))
def test_of_ten_thousand_hostile_strings_none_leaves_its_place_in_markdown(seed: int) -> None:
    told = hostile_document(seed, 1000)
    said, plain = markdown(told), markdown(mapped(told, lambda text: "x" if one_line(text) else text))
    assert not CONTROL.search(said)

    def outside(text: str) -> list[str]:
        """Lines that are not within a fence: what each begins with, and how many cells it has."""
        found, fence = [], ""
        for line in text.split("\n"):
            if fence:
                fence = "" if line.strip() == fence else fence
            elif opened := re.fullmatch(r" *(`{3,})text", line):
                fence = opened[1]
            elif line:
                bars = len(re.findall(r"(?<!\\)\|", line))
                head = re.match(r"#{1,3} |- |\| |\*\*", line)
                found.append(f"{head[0] if head else ''}{bars}")
        assert not fence
        return found

    assert outside(said) == outside(plain)


@pytest.mark.parametrize("piece", PIECES)
def test_a_line_of_markdown_holds_no_markup(piece: str) -> None:
    said = inline(f"a {piece} b")
    assert "\n" not in said and not re.search(r"(?<!\\)[<>`*_\[\]|~$]|://|www\.|\w@", said)
    assert entities.unescape(re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", said)) == " ".join(sanitise(f"a {piece} b").split())


@pytest.mark.parametrize("text", ["- a", "+ b", "1. c", "23) d", "# e", "> f", "=== g", "--- h"])
def test_a_line_of_markdown_begins_no_block(text: str) -> None:
    assert re.match(r"[0-9]*\\", paragraph(text))


def test_a_fence_is_longer_than_any_in_the_text() -> None:
    told = fenced("```\ncode\n`````\n")
    assert told.startswith("``````text\n") and told.endswith("\n``````") and told.count("``````") == 2


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose records, rules, warnings and model file say hostile things."""
    path = tmp_path_factory.mktemp("hostile") / "a <b>&'run"
    tiny_run(path, rounds=1)
    chance = random.Random(7)

    def text() -> str:
        return hostile(chance)

    kept = [Example(text(), text(), text(), [], 1.0, None, None, text(), ("a", "b")) for _ in range(1200)]
    rejected = [Rejection("filter", text(), text(), text(), 0, text(), text(), text()) for _ in range(1200)]
    replace_records(path / "round-1" / "kept.jsonl", kept)
    replace_records(path / "round-1" / "rejected.jsonl", rejected)
    (path / "model.json").write_text(json.dumps({text(): text() for _ in range(50)}))
    with open(path / "events.jsonl", "a", encoding="utf-8") as file:
        for _ in range(40):
            file.write(json.dumps({"event": "Note", "text": text(), "level": "warning"}) + "\n")
    return path


def test_a_run_of_ten_thousand_hostile_strings_has_a_page_of_text(hostile_run: Path) -> None:
    told = document(gather(hostile_run))
    seen, plain = Seen(html_page(told, {})), Seen(html_page(mapped(told, lambda text: "x" if text else text), {}))
    assert len(strings(told)) > 3000 and seen.tags == plain.tags and ("script",) not in seen.tags


def test_a_figure_shows_hostile_labels_as_letters() -> None:
    pytest.importorskip("matplotlib")
    for start in range(0, len(PIECES), 20):
        pieces = PIECES[start : start + 20]
        series = tuple((f"a{piece}", (1,)) for piece in pieces[:3])
        drawing = plots.svg(HistogramBlock("odd", "".join(pieces), "x".join(pieces), (0.0, 1.0), series))
        tags = {tag for tag, *_ in Seen(drawing).tags}
        assert tags <= {"svg", "/svg", "g", "/g", "defs", "/defs", "path", "/path", "use", "/use", "text", "/text",
                        "clippath", "/clippath", "rect", "/rect"}, pieces  # fmt: skip
        assert not CONTROL.search(drawing)


@pytest.fixture(scope="module")
def measured_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three measured rounds, without its pictures."""
    run = measured_run(tmp_path_factory.mktemp("measured") / "run", [0.2, 0.6, 0.5, 0.55])
    page = tmp_path_factory.mktemp("page") / "report.html"
    page.write_text(html_page(document(gather(run.path)), {}), encoding="utf-8")
    return page


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here")
def test_a_browser_asks_for_nothing_and_complains_of_nothing(hostile_run: Path, tmp_path: Path) -> None:
    """The page of the hostile run, in a real browser: no console message, no request, and the elements are ours."""
    pytest.importorskip("matplotlib")
    written = write(hostile_run, tmp_path / "out")
    network = tmp_path / "network.json"
    shown = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions",
         "--disable-background-networking", "--disable-component-update", "--no-first-run", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={network}", "--dump-dom",
         written.html.resolve().as_uri()],
        capture_output=True, text=True, timeout=120, check=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    assert "CONSOLE" not in shown.stderr
    asked = set(re.findall(r'"url":"([^"]*)"', network.read_text(errors="replace")))
    assert not [url for url in asked if "x.example" in url]
    own = {tag for tag, *_ in Seen(written.html.read_text()).tags}
    found = {tag for tag, *_ in Seen(shown.stdout).tags}
    assert "article" in found and found <= own | {"/meta", "/link"}
    assert "owned" not in (re.search(r"<title>(.*?)</title>", shown.stdout) or [""])[0]


MEASURE = """<iframe src="{page}" width="{width}" height="900"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const short = page.querySelector("#metrics .scroll");
  document.body.innerHTML = [page.documentElement.scrollWidth, short.scrollWidth - short.clientWidth].join(" ");
}};
</script>"""


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here")
@pytest.mark.parametrize("width", [400, 800])
def test_on_a_phone_no_round_of_the_short_table_is_off_the_screen(
    measured_page: Path, tmp_path: Path, width: int
) -> None:
    """And nothing makes the page itself wider than the window."""
    (tmp_path / "outer.html").write_text(MEASURE.format(page=measured_page.as_uri(), width=width))
    shown = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--allow-file-access-from-files", "--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}",
         "--dump-dom", (tmp_path / "outer.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    found = re.search(r"<body>(\d+) (\d+)</body>", shown.stdout)
    assert found is not None, shown.stdout[-300:]
    assert int(found[1]) <= width and int(found[2]) == 0
