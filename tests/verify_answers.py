"""Answers of many shapes to any item, made mechanically: plain, trying to keep its constraints, and mixtures."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from minisheep.rules.ifeval import VerifiableItem

PLAIN = (
    "This is a plain answer, and it keeps nothing on purpose. It has a few sentences, some commas, and no marks at all."
    " Dr. Low would not mind! Would you?"
)
MARKDOWN = (
    "# An answer\n\n<<A title>>\n\nSection 1\n* first **point**\n* second *point*\n- third [point]\n\n***\n\n"
    "SECTION 2: DON'T PANIC, it's [fine].\n\n******\n\nMy answer is maybe.\n\nP.S. P.P.S Is there anything else?"
)
IN_LANGUAGES = (
    "امروز هوا خوب است و ما به بازار می‌رویم تا نان و پنیر بخریم.",
    "Hôm nay trời đẹp và chúng tôi đi chợ để mua bánh mì.",
    "Leo hali ya hewa ni nzuri na tunaenda sokoni kununua mkate.",
    "Сегодня хорошая погода, и мы идём на рынок за хлебом.",
    "Днес времето е хубаво и отиваме на пазара за хляб.",
    "आज मौसम अच्छा है और हम रोटी खरीदने बाज़ार जा रहे हैं।",
    "Heute ist das Wetter schön, und wir gehen auf den Markt.",
    "ਅੱਜ ਮੌਸਮ ਚੰਗਾ ਹੈ ਅਤੇ ਅਸੀਂ ਬਾਜ਼ਾਰ ਜਾ ਰਹੇ ਹਾਂ।",
    "오늘은 날씨가 좋아서 우리는 시장에 갑니다.",
)
JSON = '```json\n{"answer": "yes", "words": ["one", "two"], "n": 3}\n```'
PIECES = (
    "Yes. ",
    "no ",
    "It rained, and we stayed. ",
    "\n",
    "\n\n",
    "***",
    "******",
    "* point\n",
    "- point\n",
    "*so*",
    "**so**",
    "[name] ",
    "P.S. ",
    "P.P.S ",
    "<<Title>>",
    "Section 1\n",
    "SECTION 2 ",
    "Dr. Low met Mr. High. ",
    "WE DON'T. ",
    "I'M OK, ",
    "e.g. this ",
    "3.5 km. ",
    "Well... However ",
    '"',
    '"Go!" ',
    "What?! ",
    "the end",
    "{",
    "}",
    "1. One\n2. Two\n",
    "# ",
    "(so) ",
)


def answers_to(item: VerifiableItem) -> list[str]:
    """About 20 answers, the same every time."""
    chance = random.Random(item.id)
    kept = built(item)
    answers = [
        "Okay.",
        PLAIN,
        MARKDOWN,
        JSON,
        kept,
        kept.upper(),
        kept.lower(),
        f'"{kept}"',
        f"Sure, here it is:\n{kept}\nI hope that helps, bye.",
        f"**{kept}**",
        f"{item.prompt}\n\n{kept}",
        chance.choice(IN_LANGUAGES),
        chance.choice(IN_LANGUAGES) + "\n" + kept,
    ]
    own = [text for check in item.checks for text in texts_in(check.arguments)] or ["word"]
    for _ in range(8):
        pieces = [
            chance.choice((chance.choice(PIECES), chance.choice(own) + " ")) for _ in range(chance.randint(1, 40))
        ]
        answers.append("".join(pieces))
    return answers


def texts_in(arguments: Mapping[str, Any]) -> list[str]:
    values = [v for value in arguments.values() for v in (value if isinstance(value, list) else [value])]
    return [value for value in values if isinstance(value, str)]


def built(item: VerifiableItem) -> str:
    """An answer that mostly keeps the item's constraints, one taken after the other."""
    given: dict[str, Mapping[str, Any]] = {check.kind: check.arguments for check in item.checks}
    if "detectable_format:json_format" in given:
        return '{"answer": "yes"}'
    body = "We went to the market and came home with bread"
    if "language:response_language" in given:
        body = next(text for n, text in enumerate(IN_LANGUAGES) if n == len(item.id) % len(IN_LANGUAGES))
    parts = [body + "."]
    for kind, a in given.items():
        match kind.partition(":")[2]:
            case "existence":
                parts.append(" ".join(a["keywords"]) + ".")
            case "frequency":
                parts.append((a["keyword"] + " ") * (a["frequency"] - (a["relation"] == "less than")))
            case "letter_frequency":
                parts.append(a["letter"] * (a["let_frequency"] - (a["let_relation"] == "less than")))
            case "number_sentences":
                parts.append("So it was. " * max(0, a["num_sentences"] - 1 - (a["relation"] == "less than")))
            case "number_words":
                parts.append("word " * max(0, a["num_words"] - 10 - (a["relation"] == "less than")))
            case "number_paragraphs":
                parts.append("\n***\nMore." * (a["num_paragraphs"] - 1))
            case "nth_paragraph_first_word":
                parts = [f"{a['first_word']} it is." for _ in range(a["num_paragraphs"])]
                parts = ["\n\n".join(parts)]
            case "number_placeholders":
                parts.append("[name] " * a["num_placeholders"])
            case "number_bullet_lists":
                parts.append("\n* point" * a["num_bullets"])
            case "number_highlighted_sections":
                parts.append("*point* " * a["num_highlights"])
            case "multiple_sections":
                parts.append("".join(f"\n{a['section_spliter']} {n}\nText." for n in range(1, a["num_sections"] + 1)))
            case "constrained_response":
                parts.append("My answer is no.")
            case "title":
                parts.insert(0, "<<A title>>\n")
            case "two_responses":
                parts.append("\n******\nAnother one.")
            case "capital_word_frequency":
                parts.append("STOP " * (a["capital_frequency"] - (a["capital_relation"] == "less than")))
            case "postscript":
                parts.append(f"\n{a['postscript_marker']} Write soon.")
    text = " ".join(parts)
    if "combination:repeat_prompt" in given:
        text = f"{given['combination:repeat_prompt'].get('prompt_to_repeat', item.prompt)}\n{text}"
    if "startend:end_checker" in given:
        text += " " + given["startend:end_checker"]["end_phrase"]
    if "change_case:english_capital" in given:
        text = text.upper()
    if "change_case:english_lowercase" in given:
        text = text.lower()
    return f'"{text}"' if "startend:quotation" in given else text
