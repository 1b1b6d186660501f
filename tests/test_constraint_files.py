"""A user's own constraints: files whose faults are named in a line, and plug-ins that a run does not end for."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import minisheep
from minisheep.data.constraint_kinds import GROUP, default_trained_kinds, load_catalogue, stored_catalogue
from minisheep.data.seed_tasks import load_seeds
from minisheep.errors import ConfigError
from minisheep.rules.constraints import Catalogue, WordedConstraint, draw, solved_with
from minisheep.rules.ifeval import KINDS
from minisheep.stages.checking import GIVE_UP, GRACE_SECONDS, Checker

GUIDE = (Path(minisheep.__file__).parents[1] / "docs" / "guide" / "constraints.md").read_text(encoding="utf-8")
COMMA = '[kinds."punctuation:no_comma"]\nwordings = ["Use no commas."]\n'
BULLETS = '[kinds."detectable_format:number_bullet_lists"]\n'


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def refused(tmp_path: Path, text: str, **given: Any) -> ConfigError:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_catalogue(str(path), plugins=False, **given)
    assert str(path) in raised.value.message and "\n" not in raised.value.message and raised.value.fix
    return raised.value


# Files


def test_a_users_file_takes_the_place_of_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(blocks("toml")[0], encoding="utf-8")
    own = load_catalogue(str(tmp_path / "mine.toml"), plugins=False)
    assert own.trained == {"length_constraints:number_sentences", "punctuation:no_comma"}
    assert own.kinds.keys() == set(KINDS)
    drawn = [draw(own, {}, n) for n in range(40)]
    assert {"Use less than 5 sentences.", "Do not use any commas."} < {constraint.wording for constraint in drawn}
    # A kind that has no edit of ours is shown by the seed answers that keep it.
    assert solved_with(own, "length_constraints:number_sentences", {}, load_seeds(), 3, 1)


def test_what_a_run_stores_is_what_it_reads() -> None:
    own = load_catalogue(plugins=False)
    stored = stored_catalogue(json.loads(json.dumps(own.to_dict())))
    assert stored == own and [draw(stored, {}, n) for n in range(9)] == [draw(own, {}, n) for n in range(9)]
    assert default_trained_kinds() == own.trained
    with pytest.raises(ConfigError, match=r"constraints\.json"):
        stored_catalogue({"kinds": {"punctuation:no_comma": {"trained": 1}}}, "constraints.json")


def named(arguments: str) -> str:
    return " ".join(f"{{{name}}}" for name in re.findall(r"(\w+) =", arguments))


FAULTS = [
    ("x = [", "is not valid TOML"),
    ("", "holds no"),
    ("kinds = 3", "holds no"),
    ("language = 3\n" + COMMA, "language"),
    (f"lang = 'en'\n{COMMA}", "'lang'"),
    ('[kinds."punctuation:no_coma"]', "'punctuation:no_coma' (nearest: punctuation:no_comma)"),
    ('[kinds]\n"punctuation:no_comma" = 3', "no table"),
    (f"{COMMA}words = 3", "'words'"),
    (f"{COMMA}trained = 1", "neither true nor false"),
    (f"{COMMA}trained = false", "nothing to draw"),
    (f"{COMMA}levels = 3", "levels"),
    (f"{COMMA}levels = [[]]", "levels"),
    (f"{COMMA}levels = []", "no levels"),
    (f"{COMMA}levels = [[3]]", "must be a table"),
    (f"{COMMA}levels = [[{{ x = 1 }}]]", "has no argument 'x'"),
    ('[kinds."punctuation:no_comma"]', "no wordings"),
    ('[kinds."punctuation:no_comma"]\nwordings = "a"', "list of sentences"),
    ('[kinds."punctuation:no_comma"]\nwordings = [" "]', "list of sentences"),
    ('[kinds."punctuation:no_comma"]\nwordings = ["a {b}"]', "{b}"),
    ('[kinds."punctuation:no_comma"]\nwordings = ["a {b"]', "'a {b'"),
    (f"{BULLETS}wordings = ['Use {{num_bullets}}.']", "needs the argument 'num_bullets'"),
    (f"{BULLETS}levels = [[{{ num_bullets = -1 }}]]\nwordings = ['{{num_bullets}}']", "num_bullets -1"),
    (f"{BULLETS}levels = [[{{ num_bullets = 2 }}]]\nwordings = ['Use bullets.']", "no place for {num_bullets}"),
    (f"{BULLETS}levels = [[{{ num_bullets = 2 }}]]\nwordings = ['{{num_bullets.real}}']", "num_bullets.real"),
    (f"{BULLETS}levels = [[{{ num_bullets = 2 }}]]\nwordings = ['{{num_bullets:99}}']", "plain"),
    ('[kinds."combination:repeat_prompt"]\nwordings = ["Say it back."]', "cannot be trained on"),
    (f"language = 'gerrman'\n{COMMA}", "nearest: de, German"),
    (f"{BULLETS}levels = [[{{ num_bullets = -1 }}]]\nwordings = ['{{num_bullets}}']", "lists: num_bullets -1 must"),
    *(
        (f'[kinds."{kind}"]\nlevels = [[{{ {given} }}]]\nwordings = ["{named(given)}"]', told)
        for kind, given, told in (
            ("language:response_language", 'language = ["de"]', "language ['de'] must be one of"),
            ("language:response_language", "language = { a = 1 }", "must be one of"),
            ("keywords:existence", 'keywords = ["a{99999999999}"]', "repetition number is too large"),
            ("keywords:existence", f'keywords = ["{"(" * 3000}{")" * 3000}"]', "is not a regular expression"),
            ("keywords:forbidden_words", 'forbidden_words = ["a", "(?i)b"]', "is not a regular expression"),
            # What a reader would not take for a regular expression: C and then any number of them.
            ("keywords:existence", 'keywords = ["C++"]', "keywords 'C++' holds '+'"),
            ("keywords:existence", 'keywords = ["(a+)+$"]', "holds '('"),
            ("keywords:frequency", 'keyword = "what?", frequency = 2, relation = "at least"', "keyword 'what?' holds"),
            ("detectable_format:multiple_sections", "section_spliter = '[', num_sections = 2", "section_spliter"),
        )
    ),
    (f"a = {'[' * 9999}", "is not valid TOML"),
    (f"a = {'1' * 9999}", "is not valid TOML"),
]


@pytest.mark.parametrize(("text", "told"), FAULTS, ids=range(len(FAULTS)))
def test_a_fault_of_a_file_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    assert told in refused(tmp_path, text).message


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    # A device has no end, and would take all memory.
    for path in (tmp_path / "none.toml", tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match=re.escape(str(path))):
            load_catalogue(str(path))
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bad\.toml, line 1: not UTF-8") as raised:
        load_catalogue(str(tmp_path / "bad.toml"))
    assert "iconv" in raised.value.fix


def test_a_language_has_its_own_file(tmp_path: Path) -> None:
    assert load_catalogue(plugins=False, language="en") == load_catalogue(plugins=False)
    with pytest.raises(ConfigError, match="no constraints worded in 'xx'") as raised:
        load_catalogue(language="xx")
    assert "--constraint-file" in raised.value.fix
    german = f'language = "de"\n{COMMA}'
    assert "'de', and the run is in 'en'" in refused(tmp_path, german, language="en").message
    assert load_catalogue(str(tmp_path / "mine.toml"), plugins=False, language="de").language == "de"
    for tag in ("DE", "de-AT", "German"):
        (tmp_path / "mine.toml").write_text(f'language = "{tag}"\n{COMMA}', encoding="utf-8")
        assert load_catalogue(str(tmp_path / "mine.toml"), plugins=False, language="de").language == "de"


# Plug-ins


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Installs packages of one module for this process and its children: ``install(name, source, entry points)``."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    modules: list[str] = []

    def put(name: str, source: str, points: dict[str, str]) -> None:
        (site / f"{name}.py").write_text(source, encoding="utf-8")
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"[{GROUP}]", *(f"{key} = {value}" for key, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        modules.append(name)

    yield put
    for name in modules:
        sys.modules.pop(name, None)


PLUGIN = """
import os, re, sys, time

class Mine:
    kind = "mine:a"
    wordings = ["Be {how}."]
    arguments = [{"how": "brief"}, {"how": "kind"}]
    def check(self, answer, how):
        if answer == "raise": raise ValueError("a\\nfault")
        if answer == "leave": sys.exit(3)
        if answer == "die": os._exit(3)
        if answer == "sleep": time.sleep(60)
        if answer == "search": return bool(re.match("(a+)+$", "a" * 40 + "!"))
        if answer == "yes": return "yes"
        print("noise")
        return how in answer
"""
ASKED = WordedConstraint("mine:a", {"how": "brief"}, "Be brief.")


def stored(catalogue: Catalogue) -> Catalogue:
    """As a phase has it: read back from the run folder."""
    return stored_catalogue(json.loads(json.dumps(catalogue.to_dict())))


def test_the_guides_plug_in_is_a_whole_one(install: Any) -> None:
    project = tomllib.loads(blocks("toml")[1])["project"]
    install(project["name"], blocks("python")[0], project["entry-points"][GROUP])
    own = load_catalogue()
    kind = own.kinds["mine:lines"]
    assert own.trained - default_trained_kinds() == {"mine:lines"} and kind.plugin
    assert kind.worded({"lines": 2}, _First()).wording == "Write exactly 2 lines."
    with Checker(stored(own)) as checker:
        asked = WordedConstraint("mine:lines", {"lines": 2}, "Write exactly 2 lines.")
        assert checker.check(asked, "Name two birds.", "a crow\na gull") == (True, "")
        assert checker.check(asked, "Name two birds.", "a crow, a gull") == (False, "")
        made = solved_with(checker.catalogue, "mine:lines", {}, load_seeds(), 3, 1)
        assert len(made) == 3 and {a.count("\n") + 1 for _, _, a, _ in made} <= {2, 3}
        assert all(checker.check(constraint, "", answer)[0] for _, _, answer, constraint in made)


class _First:
    def choice(self, options: Any) -> Any:
        return options[0]


def test_a_run_does_not_end_for_a_plug_in(install: Any) -> None:
    install("mine", PLUGIN, {"a": "mine:Mine"})
    with Checker(stored(load_catalogue()), seconds=2.0) as checker:
        for answer, fault in [
            ("be brief", ""),
            ("raise", r"The check of mine:a raised ValueError: a fault\."),
            ("leave", "raised SystemExit: 3"),
            ("yes", "returned 'yes', not True or False"),
            ("die", "The check of mine:a failed: its process ended with code 3"),
            ("sleep", "The check of mine:a did not end within 2 s"),
        ]:
            passed, told = checker.check(ASKED, "", answer)
            assert passed is (answer == "be brief") and re.search(fault, told), (answer, told)
            # Whatever it did, the next answer is decided.
            assert checker.check(ASKED, "", "brief") == (True, "") and checker.check(ASKED, "", "no") == (False, "")
        assert checker.check(ASKED, "", " \n") == (False, "")


def test_a_kind_that_hangs_again_and_again_is_given_up(install: Any) -> None:
    install("mine", PLUGIN, {"a": "mine:Mine"})
    with Checker(load_catalogue(), seconds=0.3) as checker:
        for _ in range(GIVE_UP):
            # A search that backtracks without end holds the interpreter, so that only a kill ends it.
            assert "did not end" in checker.check(ASKED, "", "search")[1]
        assert "not asked again" in checker.check(ASKED, "", "search")[1]
        own = WordedConstraint("punctuation:no_comma", {}, "Use no commas.")
        assert checker.check(own, "", "a b") == (True, "") and checker.check(own, "", "a, b") == (False, "")


def test_a_word_of_a_file_that_searches_for_ever_costs_an_answer_and_no_night() -> None:
    endless = WordedConstraint("keywords:existence", {"keywords": [r"(\w+\s?)+!"]}, "Shout.")
    answer = "and so on " * 20
    with Checker(load_catalogue(), seconds=0.2) as checker:
        assert checker.check(endless, "", "Hi!") == (True, "")
        assert "did not end within 0.2 s" in checker.check(endless, "", answer)[1]
        assert checker.catalogue.kinds[endless.kind].check(answer, **endless.arguments) is False
        assert checker.check(endless, "", answer)[0] is False
        assert "not asked again" in checker.check(endless, "", answer)[1]
        other = WordedConstraint(endless.kind, {"keywords": ["and"]}, "Say and.")
        assert checker.check(other, "", answer) == (True, "")


def test_a_search_without_end_outlives_nobody(install: Any) -> None:
    """The parent may be gone, and a search that holds the interpreter hears of nothing: the process ends itself."""
    install("mine", PLUGIN, {"a": "mine:Mine"})
    job = {"kind": "mine:a", "answer": "search", "arguments": ASKED.arguments, "seconds": 0.5 - GRACE_SECONDS}
    source = (
        "from minisheep.stages.checking import PluginHandler\nhandler = PluginHandler()\n"
        f"print(handler.do({job | {'phase': 'load', 'seconds': 60}!r}, None, None), flush=True)\n"
        f"handler.do({job | {'phase': 'check'}!r}, None, None)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("{}", -signal.SIGALRM), done.stderr


def test_a_plug_in_that_was_uninstalled_is_a_fault_of_its_answers(install: Any) -> None:
    own = load_catalogue(plugins=False)
    gone = replace(own.kinds["punctuation:no_comma"], name="gone:a", plugin=True)
    kept = stored(replace(own, kinds={**own.kinds, "gone:a": gone}))
    with Checker(kept) as checker:
        passed, fault = checker.check(WordedConstraint("gone:a", {}, "x"), "", "an answer")
        assert not passed and "No plug-in of the constraint gone:a is installed here" in fault
        assert checker.catalogue.kinds["gone:a"].check("an answer") is False
        assert "knows no constraint" in checker.check(WordedConstraint("never:a", {}, "x"), "", "a")[1]


def test_a_checker_without_plug_ins_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minisheep.stages.checking.WorkerProcess", None)
    with Checker(load_catalogue(plugins=False)) as checker:
        own = WordedConstraint("combination:repeat_prompt", {}, "Say it back first.")
        assert checker.check(own, "Name a bird.", "Name a bird. A crow.") == (True, "")


BROKEN = [
    ("import nothing_like_it", "cannot be used: ModuleNotFoundError"),
    ("raise SystemExit(3)", "cannot be used: SystemExit"),
    ("raise BaseException('a')", "cannot be used: BaseException: a"),
    ("", "cannot be used: AttributeError"),
    ("class Mine: kind = 'mine:a'", "has no `check`"),
    ("class Mine:\n    kind = 'A b'\n    check = print", "`kind`"),
    ("class Mine:\n    check = print", "`kind`"),
    ("class Mine:\n    kind = 'punctuation:no_comma'\n    check = print\n    wordings = ['a']", "already a constraint"),
    ("class Mine:\n    kind = 'mine:a'\n    check = print", "no wordings"),
    ("class Mine:\n    kind = 'mine:a'\n    check = print\n    wordings = 3", "cannot be used: TypeError"),
    ("class Mine:\n    kind = 'mine:a'\n    check = edit = print\n    wordings = ['{a}']", "{a}"),
    ("class Mine:\n    kind = 'mine:a'\n    check = print\n    edit = 3\n    wordings = ['a']", "`edit`"),
    ("class Mine:\n    kind = 'mine:a'\n    check = print\n    wordings = ['a']\n    levels = [[{1}]]", "TypeError"),
    ("class Mine:\n    kind = 'mine:a'\n    check = print\n    wordings = ['\\ud800']", "half a character"),
]


@pytest.mark.parametrize(("source", "told"), BROKEN, ids=range(len(BROKEN)))
def test_a_plug_in_that_cannot_be_used_is_named_with_its_package(install: Any, source: str, told: str) -> None:
    install("mine", source, {"a": "mine:Mine"})
    with pytest.raises(ConfigError) as raised:
        load_catalogue()
    assert "'a' of the package mine" in raised.value.message and told in raised.value.message
    assert "\n" not in raised.value.message and raised.value.fix
    assert load_catalogue(plugins=False).trained == default_trained_kinds()


def test_what_a_plug_in_prints_is_no_line_of_json(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    install("mine", f"print('noise')\n{PLUGIN}", {"a": "mine:Mine"})
    assert "mine:a" in load_catalogue().trained
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "noise\n")


def test_a_broken_plug_in_does_not_stand_in_the_way_of_another(install: Any) -> None:
    """It was installed after the run was made."""
    install("mine", PLUGIN, {"a": "mine:Mine"})
    own = stored(load_catalogue())
    install("aaa", "import nothing_like_it", {"a": "aaa:Mine"})
    with Checker(own) as checker:
        assert checker.check(ASKED, "", "brief") == (True, "")


def test_a_file_may_word_a_plug_in_and_take_it_out_of_the_draw(install: Any, tmp_path: Path) -> None:
    install("mine", PLUGIN, {"a": "mine:Mine"})
    path = tmp_path / "mine.toml"
    path.write_text(f'{COMMA}[kinds."mine:a"]\ntrained = false\n', encoding="utf-8")
    assert load_catalogue(str(path)).trained == {"punctuation:no_comma"}
    worded = '[kinds."mine:a"]\nlevels = [[{ how = "short" }]]\nwordings = ["Stay {how}."]\n'
    path.write_text(worded, encoding="utf-8")
    assert draw(load_catalogue(str(path)), {}, 1).wording == "Stay short."
