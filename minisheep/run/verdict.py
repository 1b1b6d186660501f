"""What a run came to, in plain words: one sentence, a few answers before and after, and a table of six rows. Pure.

The end of a run, ``status``, the report and an export's card all say the same sentence, made here from the metrics of
the base and the rounds. It compares the round to use with the base model; where the base is the model to use, the last
round that was measured, since that is what a user would otherwise take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minisheep.rules.identity import derive_seed
from minisheep.rules.plain_text import round_name
from minisheep.run.decision import IN_WORDS, Difference, differences, outcome, signed

Metrics = Mapping[str, Any]
"""A round's metrics.json."""
ROWS = {
    "constraints": (
        "constraints kept",
        'Verifiable instructions such as "in fewer than 40 words" that a program finds kept. An answer that repeats its'
        " instruction keeps none.",
    ),
    "constraints_trained": (
        "constraints kept, trained",
        'Verifiable instructions such as "in fewer than 40 words" that a program finds kept, of the kinds that the run'
        " trains on. An answer that repeats its instruction keeps none.",
    ),
    "constraints_unseen": (
        "constraints kept, unseen",
        "The same of the kinds that the run never trains on: whether the model learned to follow, or only its own.",
    ),
    "likelihood": (
        "likelihood of right answers",
        "How likely the model finds right answers that it never saw, in nats a token; 0 is the highest.",
    ),
    "ended": ("answers that end", "How many of its answers end by themselves, before the limit cuts them off."),
    "copied": ("not repeating the instruction", "How many answers are the model's own words."),
    "words": ("words in an answer", "Their length; neither way is better."),
}
"""By measure, what its row in the short table is called, and what it says."""
LEVELS = {
    "constraints": ("verifiable", "instruction_own", "value"),
    "constraints_trained": ("verifiable_trained", "instruction_own", "value"),
    "constraints_unseen": ("verifiable_unseen", "instruction_own", "value"),
    "ended": ("verifiable", "ended", "value"),
}
"""Where a model's metrics hold the share that a measure compares."""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """A round against the base model. All differences are the round's less the base's; above 0 is better."""

    round: int
    best: int | None
    """The round to use by the run's own decision, 0 for the base; None where the run decided nothing."""
    found: dict[str, Difference]
    base: Metrics
    """The ``model`` part of the base's metrics, and"""
    model: Metrics
    """that of the round's."""
    later: int = 0
    """How many rounds were measured after the best one."""


def conclude(metrics: Sequence[Metrics], number: int | None = None) -> Conclusion | None:
    """The round `number`, or the one that the run is about, against the base; None without the base and such a round.

    metrics: of the base and the measured rounds, in order.
    """
    measured = {int(m["round"]): m for m in metrics}
    rounds = [r for r in measured if r]
    if 0 not in measured or not rounds or (number is not None and number not in rounds):
        return None
    last = measured[rounds[-1]].get("decision", {})
    best = last["best"] if isinstance(last.get("best"), int) else None
    chosen = number or best or rounds[-1]
    if chosen not in measured:
        return None
    base, model = measured[0]["model"], measured[chosen]["model"]
    # The round's own decision says whether the run counts constraints by halves.
    halves = any(name.startswith("constraints_") for name in measured[chosen].get("decision", {}).get("measures", {}))
    later = sum(r > chosen for r in rounds) if chosen == best else 0
    return Conclusion(chosen, best, differences(model, base, halves=halves), base, model, later)


def sentence(found: Conclusion | None) -> str:
    """The verdict on a run: which model to use, and what it does better or worse; how sure that is."""
    if found is None:
        return "No round has been measured yet, so nothing can be said of the run."
    if found.best is None:
        return f"This run compared no rounds with each other; {_compared(found, f'round {found.round}')}."
    if found.best == 0:
        return f"Use the base model: {_compared(found, f'round {found.round}')}."
    none_better = "" if not found.later else f"; {_later(found)} no better"
    return f"Use round {found.best}: {_compared(found, 'it')}{none_better}."


def round_sentence(found: Conclusion) -> str:
    """The verdict for whoever was given the round `found` is about, whether or not it is the best of its run."""
    if found.best in (None, 0, found.round):
        return sentence(found)
    return f"{_compared(found, f'Round {found.round}')}. The best of its run is round {found.best}."


def pair_sentence(found: Mapping[str, Difference], names: tuple[str, str], models: tuple[Metrics, Metrics]) -> str:
    """The verdict on a model against any other: their differences, names, and the ``model`` parts of their metrics."""
    text = _compared(Conclusion(0, None, dict(found), models[1], models[0]), *names)
    return f"{text[0].upper()}{text[1:]}."


def _later(found: Conclusion) -> str:
    return f"round {found.round + 1} was" if found.later == 1 else f"the {found.later} rounds measured after it were"


def _compared(found: Conclusion, subject: str, other: str = "the base model") -> str:
    """``it is better than the base model in A (24 % to 43 %) and B, beyond chance; C shows no clear change``."""
    by_verdict = {verdict: [name for name, d in found.found.items() if d.verdict == verdict] for verdict in (1, -1, 0)}
    if not found.found:
        return f"{subject} and {other} were not measured on the same items, so they cannot be compared"
    unclear = _listed([IN_WORDS[name] for name in by_verdict[0]], "or")
    if outcome(found.found) == "none":
        return f"{subject} shows no clear change from {other} in {unclear} (95 % confidence)"
    better, worse = (_listed([_with_levels(found, name) for name in by_verdict[v]]) for v in (1, -1))
    text = f"{subject} is better than {other} in {better}" if better else ""
    if worse:
        text = f"{text}, but worse in {worse}" if better else f"{subject} is worse than {other} in {worse}"
    text += ", beyond what chance explains (95 % confidence)"
    if unclear:
        text += f"; no clear change in {unclear}"
    words = [m.get("answer_words") for m in (found.base, found.model)]
    if better and all(isinstance(count, int | float) for count in words):
        rival = other.partition(" (")[0].removesuffix(" model")
        text += f"; its answers have {words[1]:.0f} words, those of {rival} {words[0]:.0f}"
    return text


def _with_levels(found: Conclusion, name: str) -> str:
    """``following constraints (24 % to 43 %)``."""
    if name == "likelihood":
        return f"{IN_WORDS[name]} ({found.found[name].value:+.2f} nats a token)"
    before, after = (_cell(name, level(model, name)) for model in (found.base, found.model))
    return f"{IN_WORDS[name]} ({before} to {after})"


def _listed(parts: Sequence[str], last: str = "and") -> str:
    """``A``, ``A and B``, ``A, B and C``."""
    return f" {last} ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def level(model: Metrics, measure: str) -> float | None:
    """A model's share, 0 .. 1, of a measure of the decision; for the likelihood, nats per token. Higher is better."""
    if measure == "likelihood":
        nll = _at(model, ("held_out_nll",))
        return None if nll is None else -nll
    return _at(model, LEVELS[measure])


def _at(model: Metrics, path: Sequence[str]) -> float | None:
    value: Any = model
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


MOST_ROUNDS = 3
"""Rounds in the short table beside the base: the best and the newest."""
DECIDES = "*"
LEGEND = (
    f"{DECIDES} decides which round is the best. Changes are in points or nats a token, with their 95 % intervals;"
    " better or worse means that the interval lies on one side of 0. Fewer or more words are neither."
)
Row = tuple[str, ...]


def short_table(found: Conclusion | None, metrics: Sequence[Metrics], most: int = MOST_ROUNDS) -> tuple[Row, list[Row]]:
    """Titles and at most six rows: what is measured, base and at most `most` rounds, and the change with its interval.

    In every row up is better; rows that decide are marked with `DECIDES`. No rows before a round is measured.
    """
    if found is None:
        return (), []
    shown = _shown([m for m in metrics if m["round"]], found.round, most)
    models = [found.base, *(m["model"] for m in shown)]
    rows = []
    for name, difference in found.found.items():
        cells = [_cell(name, level(model, name)) for model in models]
        rows.append((f"{ROWS[name][0]} {DECIDES}", *cells, _change(name, difference)))
    own = [_at(model, ("verifiable", "copied", "value")) for model in models]
    if any(value is not None for value in own):
        rows.append((ROWS["copied"][0], *(_cell("", None if v is None else 1 - v) for v in own), ""))
    words = [_at(model, ("answer_words",)) for model in models]
    if any(value is not None for value in words):
        rows.append((ROWS["words"][0], *(_count(value) for value in words), ""))
    titles = [f"best: {name}" if number == found.best else name for number, name in _names(shown)]
    return ("measure (up is better)", *titles, f"round {found.round} - base"), rows[:6]


def meanings(rows: Sequence[Row]) -> list[Row]:
    """What each row of a short table says, in words."""
    shown = {row[0].removesuffix(DECIDES).strip() for row in rows}
    return [pair for pair in ROWS.values() if pair[0] in shown]


def _names(rounds: Sequence[Metrics]) -> list[tuple[int, str]]:
    return [(number, round_name(number)) for number in (0, *(int(m["round"]) for m in rounds))]


def _shown(rounds: Sequence[Metrics], number: int, most: int) -> list[Metrics]:
    """The round `number` and the newest others, in order."""
    others = [m for m in rounds if m["round"] != number][-(most - 1) :] if most > 1 else []
    return [m for m in rounds if m["round"] == number or m in others]


def _cell(measure: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if measure == "likelihood" else f"{100 * value:.0f} %"


def _change(measure: str, found: Difference) -> str:
    """``+18 [+8, +29] better``."""
    value, low, high = (signed(measure, number) for number in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}] {('unclear', 'better', 'worse')[found.verdict]}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """An instruction with the base's answer and a round's."""

    prompt: str
    base: str
    round: str
    note: str = ""
    """What a program found of both answers, in words; empty where nothing was checked."""


def before_after(
    answers: tuple[Sequence[Metrics], Sequence[Metrics]],
    checked: tuple[Sequence[Metrics], Sequence[Metrics]],
    models: tuple[Metrics, Metrics],
) -> list[BeforeAfter]:
    """At most three instructions with both answers, by a rule that looks at no answer.

    The first held-out task; the verifiable instruction in the middle of its file; and of those on which the two models
    differ in what they kept, in either direction, one by lot (the digest of its name). In place of what is missing
    stand the next of its kind.

    answers, checked: the lines of answers.jsonl and verifiable.jsonl of base and round. models: the ``model`` parts of
    their metrics, with verdicts by item.
    """
    plain = _pairs(answers, "task", lambda row: "\n".join(filter(None, (row["instruction"], row["input"]))))
    verifiable = _pairs(checked, "item", lambda row: row["prompt"])
    verdicts = [model.get("verifiable_by_item", {}) for model in models]
    kept = {
        name: counts
        for name in verifiable
        if (counts := _kept(verdicts[0].get(name), verdicts[1].get(name))) is not None
    }
    middle = list(verifiable)[len(verifiable) // 2 :]
    differing = [name for name, (before, after, _) in kept.items() if before != after]
    by_lot = sorted(differing, key=lambda name: derive_seed("verdict", "before and after", name))
    shown: dict[str, BeforeAfter] = {}
    for names in (list(plain), middle, by_lot, middle, list(plain)):
        name = next((name for name in names if name not in shown), None)
        if name is not None and len(shown) < 3:
            pair = plain[name] if name in plain else verifiable[name]
            shown[name] = BeforeAfter(*pair, _verdict_words(kept.get(name) if name in verifiable else None))
    return list(shown.values())


def _pairs(both: tuple[Sequence[Metrics], Sequence[Metrics]], key: str, prompt: Any) -> dict[str, tuple[str, str, str]]:
    """By name in order, the prompt and both answers, of what both models answered."""
    after = {row[key]: row["answer"] for row in both[1]}
    return {row[key]: (prompt(row), row["answer"], after[row[key]]) for row in both[0] if row[key] in after}


def _kept(before: Any, after: Any) -> tuple[int, int, int] | None:
    """Constraints that base and round kept in their own words, and how many there were."""
    rows = [v.get("own", v.get("strict")) if isinstance(v, Mapping) else None for v in (before, after)]
    if rows[0] is None or rows[1] is None or len(rows[0]) != len(rows[1]):
        return None
    return sum(rows[0]), sum(rows[1]), len(rows[0])


def _verdict_words(kept: tuple[int, int, int] | None) -> str:
    if kept is None:
        return ""
    before, after, count = kept
    return f"kept {before} of {count} constraint{'s' * (count != 1)} before, {after} after"


TOTAL = "total"
"""Stands beside the kinds in a round's metrics."""


def curve(metrics: Sequence[Metrics]) -> dict[str, dict[int, tuple[int, int]]]:
    """The learning curve: by kind of constraint and round, answers drawn and how many of them passed the check.

    Kinds in the order in which rounds met them. Empty for a run without constraints.
    """
    found: dict[str, dict[int, tuple[int, int]]] = {}
    for m in metrics:
        kinds = m.get("data", {}).get("constraints", {})
        for kind, counts in kinds.items() if isinstance(kinds, Mapping) else ():
            if kind != TOTAL and isinstance(counts, Mapping) and counts.get("draws"):
                found.setdefault(kind, {})[int(m["round"])] = int(counts["draws"]), int(counts["passed"])
    return found


def curve_totals(found: Mapping[str, Mapping[int, tuple[int, int]]]) -> dict[int, tuple[int, int]]:
    """The learning curve of all kinds together."""
    rounds = sorted({number for by_round in found.values() for number in by_round})
    parts = {number: [by_round[number] for by_round in found.values() if number in by_round] for number in rounds}
    return {number: (sum(d for d, _ in some), sum(p for _, p in some)) for number, some in parts.items()}
