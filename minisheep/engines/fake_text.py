"""The texts that the fake engine writes: numbered lists of tasks, answers and grades, from word lists and names.

As in a real model's text, a few words occur in most tasks and most words in few. So most of a hundred thousand tasks
are new, where word lists alone would be exhausted after a few hundred.
"""

from __future__ import annotations

from random import Random

_PEOPLE = (
    *("a new neighbour", "a school class", "my grandmother", "a busy colleague", "first-time travellers"),
    *("a curious child", "the village council", "an apprentice baker", "a football team", "night-shift nurses"),
    *("a retired teacher", "weekend gardeners"),
)
_THINGS = (
    *("a leaking kitchen tap", "sourdough bread", "winter tyres", "a rooftop garden", "the tides"),
    *("public libraries", "a second-hand bicycle", "compound interest", "honey bees", "a long train journey"),
    *("stage fright", "solar panels", "mountain weather", "handwritten letters", "chess openings"),
    *("a noisy flat", "old photographs", "tomato plants", "a broken promise", "cycling to work"),
    *("street markets", "wool jumpers", "lighthouse keepers", "a shared kitchen"),
)
_MOODS = ("cheerful", "formal", "brief", "patient", "humorous", "plain", "persuasive", "calm", "vivid", "modest")
_PLACES = ("Lisbon", "a small island", "Nairobi", "the Alps", "a river town", "Osaka", "a desert camp", "Glasgow")
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight")
_QUALITIES = ("cost", "safety", "comfort", "fairness", "speed", "beauty", "noise", "patience", "waste", "trust")

_OBJECTS = (
    *("bridge", "recipe", "orchard", "timetable", "harbour", "festival", "ferry", "bakery", "museum", "choir"),
    *("diary", "kettle", "vineyard", "workshop", "contract", "telescope", "hedge", "radio", "well", "theatre"),
    *("tram", "canal"),
)
_ROLES = (
    *("Mayor", "Nurse", "Captain", "Aunt", "Uncle", "Doctor", "Judge", "Sergeant", "Pastor", "Chef", "Coach"),
    "Gran",
)
_CLAUSES = (
    "Mention {a}, {b}, {c} {d}, {e} {f} and {g} {h}.",
    "Begin with {a} {b} or {c} {d} and end with {e} {f} {g} {h}.",
    "{a} {b}, {c} {d}, {e} {f} and {g} {h} may read it.",
    "Leave out {a}, {b}, {c} {d} and {e} {f} of {g} {h}.",
    "Think of {a}, {b}, {c}, {d}, {e}, {f}, {g} and {h}.",
    "Use the names {a}, {b}, {c} {d}, {e} {f}, {g} {h}.",
    "{a} {b} of {c} {d} asked {e} {f} and {g} {h}.",
    "Prefer {a} {b} and {c} {d} to {e} {f} or {g} {h}.",
)
_ONSETS = ("b", "br", "d", "dr", "f", "g", "gr", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "z")
_VOWELS = ("a", "e", "i", "o", "u", "ae", "ei", "ou")
ORDINARY = 0.15
"""Share of slots that the short lists of everyday words fill; the others get a name."""
PLAIN = 0.03
"""Share of tasks without a clause of names."""

_TASKS = (
    "Explain {thing} to {people} in {number} sentences.",
    "Write a {mood} letter to {people} about {thing}.",
    "List {number} reasons why {people} might care about {thing}.",
    "Compare {thing} with {other} with regard to {quality}.",
    "Suggest a {mood} title for an essay on {thing} and {quality}.",
    "What questions should {people} ask before dealing with {thing} in {place}?",
    "Plan a day in {place} for {people} who like {thing}.",
    "Give {number} tips that help {people} think about {quality} and {thing}.",
    "Describe how {thing} would look to someone who has only ever lived in {place}.",
    "Turn the idea of {quality} into a {mood} story that features {thing}.",
    "Argue for or against {thing} as a topic for {people}.",
    "Name {number} words that come to mind when {people} hear about {thing}.",
    "How does {quality} matter when choosing between {thing} and {other}?",
    "Compose a {mood} poem of {number} lines in which {thing} meets {other}.",
    "Invent a proverb about {quality} that {people} from {place} could use.",
    "Which common mistakes about {thing} annoy {people} most, and why?",
    "Prepare a {mood} speech of {number} minutes on {quality} for a meeting in {place}.",
    "Rank {thing}, {other} and a visit to {place} by {quality}.",
    "Sketch in words the morning routine of {people} near {place}.",
    "Define {quality} in one {mood} sentence without using the word itself.",
)
_WITH_INPUT = (
    ("Summarise the passage in {number} words.", "In {place}, {people} spent the year learning about {thing}."),
    ("Rewrite the sentence in a {mood} tone.", "Nobody told {people} that {thing} could be so demanding."),
    ("Find the two nouns that matter most in this note on {quality}.", "Remember {thing}, then ask {people}."),
    ("Say whether the review is positive or negative about {quality}.", "We loved {place}, but {thing} let us down."),
    ("Continue the dialogue with {number} more lines.", 'She said: "Have you heard about {thing} in {place}?"'),
    ("Correct the spelling so that {people} can read it.", "Definately bring {other} and {thing} tommorow."),
)
_BROKEN = ("Draw a picture of {thing}.", "Explain {thing}", "Do it.", "- {thing}, {other}", "Play a video of {place}.")

_OPENERS = (
    "The short answer depends on {quality}",
    "Most people begin with {thing}",
    "In {place} the custom is simple",
    "There are {number} points worth knowing",
    "A good start is to talk to {people}",
    "It helps to look at {other} first",
)
_MIDDLES = (
    "Someone who knows {thing} well will plan for {quality} early.",
    "After a week, {people} usually notice what works.",
    "The cost stays low if you prepare {number} days ahead.",
    "By comparison, {other} asks for far more {quality}.",
    "Keep notes, because memory fades faster than expected.",
    "A visit to {place} makes the difference clear.",
    "None of this is hard once {thing} feels familiar.",
    "Ask again later, since {quality} changes with the season.",
)


def task_list(draw: Random, first: int, *, labelled: bool) -> str:
    """Three to six tasks that continue a list at number `first`, which ends the prompt; the last is cut off. `labelled`
    lists read ``7. Instruction: ...`` with an input for every task; others have an ``Input:`` now and then."""
    items = []
    earlier = ""
    for _ in range(draw.randint(3, 6)):
        instruction, given = _task(draw)
        if earlier and draw.random() < 0.04:
            instruction = earlier
        earlier = instruction
        if labelled:
            items.append(f" {instruction}\nInput: {given or '(none)'}")
        else:
            items.append(f" {instruction}" + (f"\nInput: {given}" if given else ""))
    gap, label = ("\n\n", " Instruction:") if labelled else ("\n", "")
    text = items[0] + "".join(f"{gap}{first + i}.{label}{item}" for i, item in enumerate(items[1:], 1))
    # An unfinished task at the end, as a token limit leaves it.
    cut = _fill(draw, draw.choice(_TASKS)).split()
    return f"{text}{gap}{first + len(items)}.{label} {' '.join(cut[: draw.randint(2, len(cut) - 1)])}"


def answer(draw: Random) -> tuple[str, str]:
    """One to four sentences and how they end; now and then a loop, or a text that is cut off."""
    sentences = [_fill(draw, draw.choice(_OPENERS)) + "."]
    sentences += [_fill(draw, text) for text in draw.sample(_MIDDLES, draw.randint(0, 3))]
    fate = draw.random()
    if fate < 0.06:
        return " ".join([sentences[-1]] * 8), "length"
    if fate < 0.12:
        return " ".join([*sentences, *" ".join(draw.sample(_MIDDLES, 2)).format(**_words(draw)).split()[:9]]), "length"
    return " ".join(sentences), "end"


def graded(draw: Random) -> str:
    grade = draw.choice((8, 8, 9, 9, 10, 7, draw.randint(1, 10)))
    return f"{grade} || {_fill(draw, 'The {quality} of the answer decides.')}"


def _task(draw: Random) -> tuple[str, str]:
    fate = draw.random()
    if fate < 0.08:
        return _fill(draw, draw.choice(_BROKEN)), ""
    clause = ""
    if draw.random() >= PLAIN:
        clause = f" {draw.choice(_CLAUSES).format(**{name: _name(draw) for name in 'abcdefgh'})}"
    if fate < 0.4:
        instruction, given = draw.choice(_WITH_INPUT)
        words = _words(draw)
        return _capital(instruction.format(**words)), _capital(given.format(**words)) + clause
    return _fill(draw, draw.choice(_TASKS)) + clause, ""


def _fill(draw: Random, text: str) -> str:
    return _capital(text.format(**_words(draw)))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _words(draw: Random) -> dict[str, str]:
    """A value for every slot of the texts above."""
    thing, other = draw.sample(_THINGS, 2)
    ordinary = [draw.random() < ORDINARY for _ in range(4)]
    return {
        "thing": thing if ordinary[0] else _named_thing(draw),
        "other": other if ordinary[1] else _named_thing(draw),
        "people": draw.choice(_PEOPLE) if ordinary[2] else f"{draw.choice(_ROLES)} {_name(draw)}",
        "mood": draw.choice(_MOODS),
        "place": draw.choice(_PLACES) if ordinary[3] else _name(draw),
        "number": draw.choice(_NUMBERS),
        "quality": draw.choice(_QUALITIES),
    }


def _named_thing(draw: Random) -> str:
    return f"the {_name(draw)} {draw.choice(_OBJECTS)}"


def _name(draw: Random) -> str:
    """One of 25,600 names."""
    return _capital("".join(draw.choice(part) for part in (_ONSETS, _VOWELS, _ONSETS, _VOWELS)))
