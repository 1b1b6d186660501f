"""Our verdicts equal those of the `lm-eval` package's IFEval code, prompt by prompt, strict and loose.

Needs `lm-eval[ifeval]` and, in MINISHEEP_IFEVAL, a file in IFEval's format. Kinds that need NLTK's Punkt model are
compared where NLTK finds it (NLTK_DATA).
"""

from __future__ import annotations

import os
import random
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from verify_answers import answers_to
from verify_cases import CASES

from minisheep.data.seed_tasks import load_items
from minisheep.rules.ifeval import Constraint, VerifiableItem, loose, strict

FILE = os.environ.get("MINISHEEP_IFEVAL", "")
PUNKT = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not FILE or not Path(FILE).exists(), reason="MINISHEEP_IFEVAL names no file"),
]


@pytest.fixture(scope="module")
def theirs() -> Any:
    """lm-eval's checkers, offline, with the language detector's draws fixed."""
    nltk = pytest.importorskip("nltk")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        langdetect = pytest.importorskip("langdetect")
        nltk.download = lambda *_, **__: False
        utils = pytest.importorskip("lm_eval.tasks.ifeval.utils")
    langdetect.DetectorFactory.seed = 0
    return utils


def has_punkt() -> bool:
    nltk = pytest.importorskip("nltk")
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return False
    return True


def is_drawn(check: Constraint) -> bool:
    """Whether lm-eval decides by an argument that it draws at random: a letter that is none, a number that is 0."""
    letter = check.arguments.get("letter", "a")
    return not ("a" <= letter.lower() <= "z") or any(value == 0 for value in check.arguments.values())


def compared(theirs: Any, items: list[tuple[VerifiableItem, list[str]]]) -> tuple[Counter[str], list[str]]:
    """Verdicts by kind, and the disagreements in words."""
    punkt = has_punkt()
    counts: Counter[str] = Counter()
    wrong = []
    for item, responses in items:
        checks = tuple(c for c in item.checks if not is_drawn(c) and (punkt or c.kind not in PUNKT))
        if not checks:
            continue
        ours = VerifiableItem(item.id, item.prompt, checks)
        given = theirs.InputExample(item.id, [c.kind for c in checks], item.prompt, [dict(c.arguments) for c in checks])
        for response in responses:
            for name, read, other in [
                ("strict", strict, theirs.test_instruction_following_strict),
                ("loose", loose, theirs.test_instruction_following_loose),
            ]:
                random.seed(0)
                expected = other(given, response).follow_instruction_list
                for check, mine, lm_eval in zip(checks, read(ours, response), expected, strict=True):
                    counts[check.kind] += 1
                    if mine is not lm_eval:
                        wrong.append(
                            f"{item.id} {check.kind} {dict(check.arguments)} {name}:"
                            f" ours {mine}, lm-eval {lm_eval}: {response!r}"
                        )
    return counts, wrong


def test_verdicts_on_ifeval_equal_lm_evals(theirs: Any) -> None:
    items = load_items(FILE)
    counts, wrong = compared(theirs, [(item, answers_to(item)) for item in items])
    print(len(items), "prompts,", sum(counts.values()), "verdicts", dict(counts))  # noqa: T201
    assert not wrong, "\n".join([f"{len(wrong)} of {sum(counts.values())} differ", *wrong[:40]])


def test_verdicts_on_our_own_prompts_equal_lm_evals(theirs: Any) -> None:
    counts, wrong = compared(theirs, [(item, answers_to(item)) for item in load_items()])
    print(sum(counts.values()), "verdicts", dict(counts))  # noqa: T201
    assert not wrong, "\n".join([f"{len(wrong)} of {sum(counts.values())} differ", *wrong[:40]])


def test_the_table_of_cases_equals_lm_evals(theirs: Any) -> None:
    items = [
        (VerifiableItem(f"{kind} {n}", "Ask.", (Constraint(kind, arguments),)), [answer])
        for kind, cases in CASES.items()
        for n, (arguments, answer, _) in enumerate(cases)
    ]
    counts, wrong = compared(theirs, items)
    print(sum(counts.values()), "verdicts")  # noqa: T201
    assert not wrong, "\n".join(wrong)
