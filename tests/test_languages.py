"""Whole rounds in other languages, against a stand-in of a completion server whose model writes in them."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from completion_stand_in import Letters, done
from judge_stand_in import Answer, Asked, StandIn, fails, stand_in
from tiny_runs import tiny_run

from minisheep import config, loop, workspace
from minisheep.data.constraint_kinds import load_catalogue, stored_catalogue
from minisheep.data.languages import NAMES as LANGUAGE_NAMES
from minisheep.data.languages import language_code
from minisheep.data.seed_tasks import load_items, load_prompts, load_seeds, load_wording, shipped
from minisheep.engines.http import Post
from minisheep.engines.openai import NAMES, RemoteEngine
from minisheep.engines.openai_wire import OPTIONAL
from minisheep.errors import ConfigError, SeedFileError
from minisheep.presets import with_preset
from minisheep.report import plots
from minisheep.report.write import write
from minisheep.rules.constraints import constrained, draw, hindsight, solved_with
from minisheep.rules.corrupt import KINDS, change_fact
from minisheep.rules.endings import cut_answer, ends_naturally, ends_with_list_line
from minisheep.rules.heuristics import INSTRUCTION_RULES, RESPONSE_RULES, instruction_fault, response_fault
from minisheep.rules.ifeval import loose, strict, verify
from minisheep.rules.ifeval_text import count_sentences, count_words
from minisheep.rules.prompts import user_text
from minisheep.rules.similarity import NoveltyIndex, tokens
from minisheep.rules.task_list import parse_task_list
from minisheep.rules.wording import BY_WORDS, ENGLISH, ENGLISH_ALONE, wording_of
from minisheep.run.events import Note

HERE = Path(__file__).parent
GUIDE = HERE.parent / "docs" / "guide" / "languages.md"
Tasks = list[tuple[str, str]]


def read_tasks() -> dict[str, Tasks]:
    found: dict[str, Tasks] = {}
    for line in (HERE / "tasks_in_languages.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            found[line.strip("[]")] = rows = []
        elif line and not line.startswith("#"):
            instruction, answer = line.split(" | ")
            rows.append((instruction, answer))
    return found


TASKS = read_tasks()


def language_of(section: str) -> str:
    return {"mixed": "zh", "emoji": "en"}.get(section, section)


WRITTEN = 10
"""Tasks of each language that are the model's; the others are seeds."""


# Whole rounds


class Characters(Letters):
    """A vocabulary of all characters."""

    def piece(self, token: int) -> bytes:
        return chr(token).encode()


class Author:
    """A server's model that writes in one language. Every fourth answer is bad in a way that a rule should see."""

    def __init__(self, section: str) -> None:
        self.wording = load_wording("", language_of(section))
        self.tasks = TASKS[section]
        self.pairs = {pair for task in self.tasks for text in task for pair in pairwise(map(ord, text))}

    def __call__(self, asked: Asked, number: int) -> Answer:
        ids, tops = asked.body["prompt"], asked.body.get("logprobs")
        if tops is None:
            return done(asked.body, self.text("".join(map(chr, ids)), asked.body.get("seed", 0)), None)
        if tops > 20:
            return fails(400, "logprobs must be at most 20")
        places = range(0 if asked.body.get("echo") else len(ids), len(ids) + 1)
        said, grades = [*ids, ord("7")], {} if asked.body.get("echo") else dict.fromkeys(map(ord, "0123456789"), -2.3)
        told = {
            "tokens": [f"token_id:{said[place]}" for place in places],
            "token_logprobs": [self.likelihood(said, place) if place else None for place in places],
            "top_logprobs": [
                {f"token_id:{t}": p for t, p in {said[place]: self.likelihood(said, place), **grades}.items()}
                for place in places
            ],
        }
        return done(asked.body, "".join(map(chr, said[places[0] :])), told)

    def likelihood(self, ids: list[int], place: int) -> float:
        """High for a pair of characters that stands in the language's tasks, as for any model of letters."""
        before, token = ids[place - 1], ids[place]
        return -0.5 - (7 * before + 13 * token) % 100 / 100 - (0 if (before, token) in self.pairs else 4)

    def text(self, prompt: str, seed: int) -> str:
        listed = re.search(r"(\d+)\. (\S+)\Z", prompt)
        if listed:
            return self.draft(int(listed[1]), listed[2], seed)
        places = [(prompt.rfind(instruction), instruction, answer) for instruction, answer in self.tasks]
        place, instruction, answer = max(places)
        if place < 0:
            return answer
        flaw = self.tasks.index((instruction, answer)) % 4
        which = self.tasks.index((instruction, answer)) % 3
        return (instruction, f"{answer} {answer}", " ".join([answer[:30]] * 6))[which] if flaw == 3 else answer

    def draft(self, number: int, label: str, seed: int) -> str:
        chosen = random.Random(seed).sample(self.tasks[-WRITTEN:], 3)
        none = self.wording.label(self.wording.input, self.wording.no_input)
        tasks = [f"{' ' if label.endswith(':') else ''}{instruction}\n{none}" for instruction, _ in chosen]
        return "\n\n".join([tasks[0], *(f"{number + n}. {label}{task}" for n, task in enumerate(tasks[1:], 1))])


def seeds_file(path: Path, language: str) -> str:
    rows = [
        {"instruction": instruction, "input": "", "output": answer, "held_out": number >= 8}
        for number, (instruction, answer) in enumerate(TASKS[language][:-WRITTEN])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def open_at(server: StandIn) -> Any:
    def opened(settings: config.Settings, gguf: Path, slot_share: float = 1.0) -> RemoteEngine:
        post = Post(server.url, "/completions", NAMES, "", 10.0, (0.01,), OPTIONAL)
        return RemoteEngine(Characters(), post, "m", slots=8, context=settings.context)

    return opened


def a_round(path: Path, language: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Counter[str]]:
    """A run up to the filter of its first round; its folder, and what the rules dropped."""
    settings: dict[str, Any] = {
        "language": language_of(language), "seeds": seeds_file(path / f"{language}.jsonl", language), "shots": 3,
        "per_round": 9,
        "judge": "auto", "exam_tasks": 8, "force": True, "keep": "top:0.9", "context": 8192, "eval_verifiable": 2,
        "eval_tasks": 2, "eval_answers": 1,
    }  # fmt: skip
    with stand_in(Author(language)) as server:
        monkeypatch.setattr(workspace, "open_engine", open_at(server))
        tiny_run(path / language, until=loop.Phase(1, "filter"), **settings)
    folder = path / language
    rejected = [json.loads(line) for line in (folder / "round-1" / "rejected.jsonl").read_text().splitlines()]
    return folder, Counter(row["rule"] for row in rejected)


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        return a_round(tmp_path_factory.mktemp("english"), "en", patch)[0]


@pytest.mark.parametrize("language", sorted(set(TASKS) - {"en"}))
def test_a_round_keeps_as_much_as_in_english(
    language: str, english: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, dropped = a_round(tmp_path, language, monkeypatch)
    new = folder / "round-1"
    assert lines(new / "instructions.jsonl") == 9, dropped
    assert set(dropped) <= {"too_similar", "copies_instruction", "loops", "low_score"}, dropped
    kept = [lines(run / "round-1" / "kept.jsonl") for run in (english, folder)]
    assert kept[0] >= 6 and abs(kept[1] - kept[0]) <= kept[0] / 3, (kept, dropped)
    exam = json.loads((new / "exam.json").read_text())
    assert all(exam["spoiled"][kind] for kind in KINDS if kind != "wrong"), exam["spoiled"]
    assert exam["spoiled"]["wrong"]
    assert exam["judges"][exam["chosen"]]["auc"] > 0.6
    diversity = json.loads((new / "diversity.json").read_text())
    assert diversity["instructions"]["words"]["value"] > 4 and diversity["instructions"]["openings"]["different"] > 4
    monkeypatch.setattr(plots, "available", lambda: False)
    written = write(folder)
    page, plain = (path.read_text(encoding="utf-8") for path in (written.html, written.markdown))
    assert ("Words are characters here" in plain) == (language in ("zh", "ja", "th", "mixed"))
    assert TASKS[language][-1][0] in page or TASKS[language][-2][0] in page


# Tags, words and rules


@pytest.mark.parametrize(
    ("written", "code"),
    [
        *(("EN", "en"), ("en-US", "en"), ("en_GB", "en"), ("english", "en"), (" English ", "en"), ("eng", "en")),
        *(("zh-Hans", "zh"), ("zh_CN", "zh"), ("Chinese", "zh"), ("中文", "zh"), ("pt-BR", "pt"), ("German", "de")),
        ("Scottish Gaelic", "gd"),
        *(
            ("ukr", "uk"),
            ("zh_CN.UTF-8", "zh"),
            ("Simplified Chinese", "zh"),
            ("yue", "zh"),
            ("espan\u0303ol", "es"),
            ("ไทย", "th"),
        ),
        *(("pt br", "pt"), ("zh tw", "zh"), ("mo", "ro"), ("ji", "yi"), ("arb", "ar"), ("bod", "bo"), ("فارسی", "fa")),
        *(
            ("Tiếng Việt", "vi"),
            ("简体中文", "zh"),
            ("ｚｈ", "zh"),
            ("\ufeffen", "en"),
            ("chr", "chr"),
            ("norsk", "no"),
        ),
    ],
)
def test_a_tag_is_brought_to_one_form(written: str, code: str) -> None:
    assert language_code(written) == code == config.make({"language": written}).language


@pytest.mark.parametrize(
    ("written", "nearest"), [("germna", "de, German"), ("zhh", "zh, Chinese"), ("", "such as en"), ("zxx", "such")]
)
def test_an_unknown_language_is_refused_with_the_nearest(written: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match="--language") as raised:
        config.make({"language": written})
    assert nearest in str(raised.value)


def test_codes_are_of_two_letters_or_three_and_every_name_leads_to_its_own() -> None:
    assert len(LANGUAGE_NAMES) > 180 and all(re.fullmatch("[a-z]{2,3}", code) for code in LANGUAGE_NAMES)
    assert all(language_code(name) == language_code(code) == code for code, name in LANGUAGE_NAMES.items())


def test_the_guide_has_the_table_of_rules() -> None:
    """Which rules are for English alone, and which need words of the language."""
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {
        name: where.strip()
        for name, where in rows
        if name in dict((n, 0) for n, *_ in (*INSTRUCTION_RULES, *RESPONSE_RULES))
    }
    wanted = {name: "English" for name in ENGLISH_ALONE} | {name: f"with `{field}`" for name, field in BY_WORDS.items()}
    assert told == {name: wanted.get(name, "every language") for name, *_ in (*INSTRUCTION_RULES, *RESPONSE_RULES)}


FRENCH = wording_of("fr")


@pytest.mark.parametrize(
    "text", ["Écris un poème sur la mer.", "Décris une image que tu aimes.", "¿Qué es una nube gris?"]
)
def test_rules_for_english_let_other_languages_pass(text: str) -> None:
    assert instruction_fault(text, "", FRENCH) is None
    assert response_fault(text, "", "Voilà 海 la mer.\n\nEt toi, que vois-tu ?", "end", wording=FRENCH) is None


CHINESE = load_wording("", "zh")


@pytest.mark.parametrize(
    ("rule", "instruction", "input"),
    [
        ("too_short", "写首诗", ""),
        ("too_long", "请说明理由" * 60, ""),
        ("not_text_only", "请根据图片写一段话。", ""),
        ("no_input_marker", "写一首关于羊的诗。（无）", ""),
        ("stray_label", "写一首关于羊的诗。\n输出：咩", ""),
        ("input_repeated", "把“早上好”翻译成英文。", "早上好"),
    ],
)
def test_a_chinese_fault_is_named_by_its_rule(rule: str, instruction: str, input: str) -> None:
    fault = instruction_fault(instruction, input, CHINESE)
    assert fault is not None and fault[0] == rule


@pytest.mark.parametrize(
    ("rule", "output"),
    [
        ("new_turn", "羊吃草。\n用户：谢谢"),
        ("answer_choices", "选项：\n- 草\n- 石头"),
        ("answer_choices", "A、草\nB、石头"),
        ("asks_back", "它们吃草。\n\n你还想知道什么？"),
        ("loops", "它们每天都吃很多新鲜的青草。还有干草。它们每天都吃很多新鲜的青草。"),
        ("copies_instruction", "告诉我羊喜欢吃什么东西。它们喜欢吃草和树叶。"),
    ],
)
def test_a_chinese_answer_is_named_by_its_rule(rule: str, output: str) -> None:
    fault = response_fault("告诉我羊喜欢吃什么东西。", "", output, "end", wording=CHINESE)
    assert fault is not None and fault[0] == rule


def test_different_tasks_that_share_a_digit_or_a_name_are_not_alike() -> None:
    pairs = [
        ("列出3个水果", "写出3个国家的首都"),
        ("用Python写一个排序函数", "解释Python的优点"),
        ("Назови 3 больших города", "Почему вода кипит при 3 атмосферах?"),
    ]
    for first, second in pairs:
        assert NoveltyIndex([first]).nearest(second)[0] < 0.6
        assert NoveltyIndex([first]).too_similar(first + "。", 0.7)[0]


AS_ONE = [
    *(
        ("列出３个水果", "列出3个水果"),
        ("ｶﾞｿﾘﾝの値段", "ガソリンの値段"),
        ("İSTANBUL hakkında yaz", "istanbul hakkında yaz"),
    ),
    *(("ISPARTA hakkında yaz", "ısparta hakkında yaz"), ("كتـــاب جيد", "كتاب جيد"), ("كَتَبَ الوَلَدُ", "كتب الولد")),
    *(
        ("می\u200cخواهم بروم", "می خواهم بروم"),
        ("नई दिल्\u200dली", "नई दिल्ली"),
        ("١٢٣ كلمة", "123 كلمة"),
        ("שָׁלוֹם לך", "שלום לך"),
    ),
    *(("Ha\u0300 No\u0323\u0302i", "Hà Nội"), ("ทํา", "ทำ"), ("ΟΔΟΣ", "οδος"), ("ᎠᏂ", "ꭰꮒ"), ("STRASSE", "Straße")),
]
"""Texts that a reader would call the same."""


@pytest.mark.parametrize(("first", "second"), AS_ONE)
def test_what_is_written_in_two_ways_is_the_same_text(first: str, second: str) -> None:
    assert NoveltyIndex([first]).nearest(second)[0] == 1.0


@pytest.mark.parametrize(
    ("text", "number", "ends"),
    [
        ("दिल्ली भारत की राजधानी है। यह बड़ी है।", 8, 2),
        ("ঢাকা রাজধানী। এখানে মানুষ আছে?", 5, 2),
        ("می\u200cخواهم کتاب\u200cها را بخوانم. آیا می\u200cتوانم؟ بله", 7, 3),
        ("پاکستان بڑا ہے۔ کیا آپ جانتے ہیں؟", 7, 2),
        ("Երևանը մայրաքաղաք է։ Ունի՞։", 4, 2),
        ("አዲስ አበባ ከተማ ናት። ስንት ሰው አለ፧ ብዙ።", 8, 3),
        ("མི་ནི་ཡིན། ང་བོད་པ་ཡིན།", 7, 2),
        ("ភ្នំពេញ។ ស្អាត។", 7, 2),
        ("Ποιος ήταν; Ήταν σοφός.", 4, 2),
        ('צה"ל הוא צבא. שלום', 4, 2),
        ("பெ\u0bbeருள் நல்லது.", 2, 1),
    ],
)
def test_words_and_sentences_of_any_script_are_counted(text: str, number: int, ends: int) -> None:
    assert (count_words(text), count_sentences(text)) == (number, ends)


@pytest.mark.parametrize(
    ("kind", "arguments", "kept", "broken"),
    [
        ("punctuation:no_comma", {}, "نعم كثير", "نعم، كثير"),
        ("keywords:forbidden_words", {"forbidden_words": ["हिंद"]}, "हिंदी अच्छी है", "जय हिंद बोलो"),
        ("keywords:forbidden_words", {"forbidden_words": ["हिंदी"]}, "हिंद बड़ा है", "हिंदी अच्छी है"),
        ("keywords:existence", {"keywords": ["Việt"]}, "Vie\u0323\u0302t Nam", "Viet Nam"),
        ("startend:quotation", {}, "« Bonjour »", "Bonjour »"),
        ("startend:quotation", {}, "„Hallo“", "Hallo“"),
    ],
)
def test_a_constraint_is_decided_as_its_reader_would(
    kind: str, arguments: dict[str, Any], kept: str, broken: str
) -> None:
    assert verify(kind, arguments, "", kept) and not verify(kind, arguments, "", broken)


@pytest.mark.parametrize(
    "text",
    [
        *("Er sagte: „Das ist gut.“", "Il dit : « Oui. »", "»Das ist gut.«", "Ποιος ήταν;", "ང་བོད་པ་ཡིན།", "ስንት ሰው አለ፧"),
        *("ভালো।", "Քանի՞ ունի։", "他说：“好。”"),
    ],
)
def test_an_end_of_any_script_is_one(text: str) -> None:
    assert ends_naturally(text) and not ends_naturally(text + " और")


@pytest.mark.parametrize(
    "item", ["١. أولا", "१. पहला", "１．一つ", "1.首先", "①一つ", "・項目", "1- أولا", "א. ראשון", "가. 첫째"]
)
def test_a_list_of_any_script_is_one(item: str) -> None:
    assert ends_with_list_line(item)


@pytest.mark.parametrize("answer", ["عام ١٩٨٩", "वर्ष १९८९", "共有１２３人", "Năm 1989"])
def test_a_wrong_number_is_another_one_in_digits_of_the_same_script(answer: str) -> None:
    for seed in range(20):
        wrong = change_fact(answer, "", [], random.Random(seed))
        assert wrong and tokens(wrong) != tokens(answer) and wrong.isascii() == answer.isascii()
        assert {c.isascii() for c in wrong if c.isdecimal()} == {c.isascii() for c in answer if c.isdecimal()}


@pytest.mark.parametrize(
    ("language", "labels", "text"),
    [
        ("tr", ("Yönerge", "Girdi"), "bir\nınput: x\n\n7. YÖNERGE: iki\nGİRDİ: y"),
        ("ar", ("التعليمات", "المدخل"), "اكتب\nالمدخل: س\n\n٧. التعليمات: اذكر\nالمدخل: ص"),
        ("fr", ("Consigne", "Entrée"), "un\nEntrée\u00a0: x\n\n7. Consigne\u202f: deux\nEntrée\u00a0: y"),
        ("zh", ("指令", "输入"), "写一首诗\n输入：甲\n\n７．指令：列出\n输入：乙"),
    ],
)
def test_a_list_of_tasks_is_read_whatever_its_digits_case_and_blanks(
    language: str, labels: tuple[str, str], text: str
) -> None:
    words = wording_of(language, dict(zip(("instruction", "input"), labels, strict=True)))
    found = parse_task_list(text, 6, False, words)
    assert len(found) == 2 and all(task.input for task in found)


@pytest.mark.parametrize(
    ("language", "text", "rule"),
    [
        ("ko", "지구의 나이는 얼마인가요?", ""),
        ("tr", "Fotosentezi kısaca açıkla.", ""),
        ("bo", "བོད་ཡིག་ནི་ཅི་རེད།", ""),
        ("en", "Explain photosynthesis briefly.", "too_short"),
        ("zh", "请访问https://example.com总结内容。", "has_url"),
        ("hi", "चित्रा नाम की लड़की की कहानी लिखिए।", ""),
    ],
)
def test_an_instruction_in_any_script_passes_for_what_it_is(language: str, text: str, rule: str) -> None:
    fault = instruction_fault(text, "", wording_of(language, {"out_of_reach": ["चित्र"]}))
    assert (fault or ("",))[0] == rule


def test_a_word_with_marks_loops_and_lettered_options_have_letters_of_their_own() -> None:
    hindi, russian = wording_of("hi"), wording_of("ru")
    assert response_fault("एक कविता लिखो", "", "वह है है है है है", "end", wording=hindi)
    fault = response_fault("Что выбрать?", "", "А) чай\nБ) кофе", "end", wording=russian)
    assert fault is not None and fault[0] == "answer_choices"


@pytest.mark.parametrize(
    ("instruction", "joined"),
    [
        ("कविता लिखो", "कविता लिखो। X"),
        ("เขียนบทกวี", "เขียนบทกวี X"),
        ("写一首诗", "写一首诗。X"),
        ("Write it.", "Write it. X"),
        ("سؤال؟", "سؤال؟ X"),
    ],
)
def test_a_constraint_follows_as_its_script_has_it(instruction: str, joined: str) -> None:
    assert constrained(instruction, "X") == joined


@pytest.mark.parametrize("preset", ["demo", "default"])
def test_a_preset_has_no_constraints_where_there_are_no_words_for_them(preset: str) -> None:
    assert with_preset({"language": "ar"}, preset).get("constraints", 0) == 0
    assert with_preset({"language": "zh"}, preset)["constraints"] > 0


# What is shipped in Chinese

EXCEPTIONS = {"zh-grammar-through", "zh-synonym-replace"}
"""Seeds whose answer is the input with one word changed, which is what was asked for."""


def test_chinese_seeds_are_sound() -> None:
    seeds = load_seeds(language="zh")
    assert len(seeds) >= 120 and sum(s.held_out for s in seeds) >= 40
    assert len({s.kind for s in seeds}) >= 25 and len({s.kind for s in seeds if s.held_out}) >= 25
    index = NoveltyIndex()
    for seed in seeds:
        assert instruction_fault(seed.instruction, seed.input, CHINESE) is None, seed.id
        fault = response_fault(seed.instruction, seed.input, seed.output, "end", wording=CHINESE)
        assert (fault is not None) == (seed.id in EXCEPTIONS), (seed.id, fault)
        question = user_text(seed.instruction, seed.input)
        assert cut_answer(seed.output, "end", question, CHINESE) == (seed.output, ""), seed.id
        assert index.nearest(seed.instruction)[0] < 0.7, seed.id
        index.add(seed.instruction)


def test_chinese_constraints_can_be_kept_and_broken() -> None:
    items = load_items(language="zh")
    rows = map(json.loads, (HERE / "verifiable_answers.zh.jsonl").read_text(encoding="utf-8").splitlines())
    answers = {row["id"]: row["passes"] for row in rows}
    assert len(items) >= 60 and list(answers) == [item.id for item in items]
    long = "好的，这个问题很有意思" + "，冷雪钱爱网络电脑西湖的的，先说一点别的" * 12 + "。再说一句，好。再说一句，好！"
    index = NoveltyIndex(seed.instruction for seed in load_seeds(language="zh"))
    for item in items:
        assert all(strict(item, answers[item.id])), (item.id, strict(item, answers[item.id]))
        for place, check in enumerate(item.checks):
            assert not all(loose(item, answer)[place] for answer in ("好", long)), (item.id, check.kind)
        assert index.nearest(item.prompt)[0] < 0.7, item.id
        index.add(item.prompt)


def test_a_language_takes_what_is_shipped_for_it_and_english_for_the_rest() -> None:
    assert shipped("seeds.jsonl", "zh") == "seeds.zh.jsonl" and shipped("prompts", "zh") == "prompts/zh"
    assert shipped("seeds.jsonl", "de") == shipped("seeds.jsonl") == "seeds.jsonl"
    assert load_prompts(language="de") == load_prompts() and "labels" not in load_prompts()
    assert load_wording(language="en") is ENGLISH
    assert "指令" in load_prompts(language="zh")["labels"]


def test_a_third_language_is_files_alone(tmp_path: Path) -> None:
    (tmp_path / "labels.toml").write_text('colon = " : "\ninstruction = "Consigne"\nturns = ["Question", "Élève"]\n')
    (tmp_path / "instructions.txt").write_text("Écris une liste de tâches.")
    words = load_wording(str(tmp_path), "fr")
    assert (words.language, words.label(words.instruction, "Écris."), words.input) == (
        "fr",
        "Consigne : Écris.",
        "Input",
    )
    assert words.stops == ("\nConsigne :", "\nInput :", "\nQuestion :", "\nÉlève :")
    texts = load_prompts(str(tmp_path), "fr")
    assert texts["instructions"] == "Écris une liste de tâches." and "Consigne" in texts["labels"]


@pytest.mark.parametrize("name", ["label.toml", "Labels.toml", "labels.TOML"])
def test_a_misspelt_file_of_labels_is_named_and_not_passed_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('colon = ": "\n')
    with pytest.raises(SeedFileError, match=r"replaces no prompt and no labels. Is labels.toml meant\?"):
        load_prompts(str(tmp_path))
    (tmp_path / name).rename(tmp_path / "labels.toml")
    assert load_prompts(str(tmp_path))["labels"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('instructon = "x"', "nearest: instruction"),
        ("colon = 3", "colon is not a text"),
        ('colon = " -> "', "colon ends in no colon"),
        ('turns = "x"', "turns is not a list"),
        ('turns = ["x"]', "fewer than two labels"),
        ('counterparts = ["one"]', "fewer than two words"),
        ("colon", "labels.toml"),
    ],
)
def test_a_faulty_file_of_labels_is_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "labels.toml").write_text(text)
    with pytest.raises(SeedFileError, match=re.escape(told)) as raised:
        load_wording(str(tmp_path), "fr")
    assert "labels.toml" in str(raised.value)


def test_chinese_constraints_are_drawn_worded_and_made() -> None:
    catalogue = load_catalogue(language="zh", plugins=False)
    assert stored_catalogue(catalogue.to_dict()) == catalogue and len(catalogue.trained) == 10
    for number in range(60):
        constraint = draw(catalogue, {}, number)
        assert not re.search("less than|at least|[{}]", constraint.wording), constraint
    seeds = load_seeds(language="zh")
    for kind in catalogue.trained:
        solved = solved_with(catalogue, kind, {}, seeds, 20, 1)
        assert len(solved) == 20, kind
        for _, task, answer, constraint in solved:
            assert catalogue.kinds[kind].check(answer, **constraint.arguments)
            before = task.instruction.removesuffix(constraint.wording)
            assert before != task.instruction and not before.endswith((" ", ".")), task
    outputs = [seed.output for seed in seeds]
    assert sum(hindsight(catalogue, one, outputs, one) is not None for one in outputs) > len(outputs) / 2


def test_a_run_that_is_shown_english_texts_says_so(tmp_path: Path) -> None:
    told = {}
    for language, given in (("de", {}), ("fr", {"prompts": str(tmp_path)}), ("zh", {}), ("en", {})):
        _, said = tiny_run(tmp_path / language, until=loop.Phase(0, "evaluate"), language=language, **given)
        told[language] = [e.text for e in said if isinstance(e, Note) and "shown English" in e.text]
    assert (
        told["de"] and "no seeds and no prompts in German" in told["de"][0] and "--seeds and --prompts" in told["de"][0]
    )
    assert "no seeds in French" in told["fr"][0]
    assert not told["zh"] and not told["en"]
