"""Which language a run is in: tags as people write them, brought to one form. Pure.

The form is the primary subtag of BCP 47: two letters of ISO 639-1, so that EN, en-US, en_GB and english are all ``en``.
"""

from __future__ import annotations

import difflib
import re
import unicodedata

_TABLE = """
aa Afar, ab Abkhazian, ae Avestan, af Afrikaans, ak Akan, am Amharic, an Aragonese, ar Arabic, as Assamese, av Avaric,
ay Aymara, az Azerbaijani, ba Bashkir, be Belarusian, bg Bulgarian, bi Bislama, bm Bambara, bn Bengali, bo Tibetan,
br Breton, bs Bosnian, ca Catalan, ce Chechen, ch Chamorro, co Corsican, cr Cree, cs Czech, cu Church Slavic,
cv Chuvash, cy Welsh, da Danish, de German, dv Divehi, dz Dzongkha, ee Ewe, el Greek, en English, eo Esperanto,
es Spanish, et Estonian, eu Basque, fa Persian, ff Fulah, fi Finnish, fj Fijian, fo Faroese, fr French,
fy Western Frisian, ga Irish, gd Scottish Gaelic, gl Galician, gn Guarani, gu Gujarati, gv Manx, ha Hausa, he Hebrew,
hi Hindi, ho Hiri Motu, hr Croatian, ht Haitian, hu Hungarian, hy Armenian, hz Herero, ia Interlingua, id Indonesian,
ie Interlingue, ig Igbo, ii Sichuan Yi, ik Inupiaq, io Ido, is Icelandic, it Italian, iu Inuktitut, ja Japanese,
jv Javanese, ka Georgian, kg Kongo, ki Kikuyu, kj Kuanyama, kk Kazakh, kl Greenlandic, km Khmer, kn Kannada, ko Korean,
kr Kanuri, ks Kashmiri, ku Kurdish, kv Komi, kw Cornish, ky Kyrgyz, la Latin, lb Luxembourgish, lg Ganda, li Limburgish,
ln Lingala, lo Lao, lt Lithuanian, lu Luba-Katanga, lv Latvian, mg Malagasy, mh Marshallese, mi Maori, mk Macedonian,
ml Malayalam, mn Mongolian, mr Marathi, ms Malay, mt Maltese, my Burmese, na Nauru, nb Norwegian Bokmal,
nd North Ndebele, ne Nepali, ng Ndonga, nl Dutch, nn Norwegian Nynorsk, no Norwegian, nr South Ndebele, nv Navajo,
ny Chichewa, oc Occitan, oj Ojibwa, om Oromo, or Odia, os Ossetian, pa Punjabi, pi Pali, pl Polish, ps Pashto,
pt Portuguese, qu Quechua, rm Romansh, rn Rundi, ro Romanian, ru Russian, rw Kinyarwanda, sa Sanskrit, sc Sardinian,
sd Sindhi, se Northern Sami, sg Sango, si Sinhala, sk Slovak, sl Slovenian, sm Samoan, sn Shona, so Somali, sq Albanian,
sr Serbian, ss Swati, st Southern Sotho, su Sundanese, sv Swedish, sw Swahili, ta Tamil, te Telugu, tg Tajik, th Thai,
ti Tigrinya, tk Turkmen, tl Tagalog, tn Tswana, to Tonga, tr Turkish, ts Tsonga, tt Tatar, tw Twi, ty Tahitian,
ug Uighur, uk Ukrainian, ur Urdu, uz Uzbek, ve Venda, vi Vietnamese, vo Volapuk, wa Walloon, wo Wolof, xh Xhosa,
yi Yiddish, yo Yoruba, za Zhuang, zh Chinese, zu Zulu
"""
NAMES = {code: name for code, _, name in (entry.strip().partition(" ") for entry in _TABLE.split(","))}
"""English names by code."""
BY_CHARACTERS = frozenset({"zh", "ja", "th", "lo", "km", "my"})
"""Languages without blanks between words, whose characters are counted in the place of words."""
_ALSO = {
    "mandarin": "zh", "zho": "zh", "chi": "zh", "cmn": "zh", "eng": "en", "deu": "de", "ger": "de", "fra": "fr",
    "fre": "fr", "spa": "es", "rus": "ru", "ara": "ar", "jpn": "ja", "kor": "ko", "por": "pt", "ita": "it", "hin": "hi",
    "farsi": "fa", "iw": "he", "in": "id", "jp": "ja", "cn": "zh", "kr": "ko", "deutsch": "de", "中文": "zh",
    "русский": "ru", "español": "es", "français": "fr", "日本語": "ja", "العربية": "ar",
}  # fmt: skip
"""What else people write, the three-letter codes of the largest languages among it."""
_MORE = """
ukr uk, tha th, heb he, tur tr, pol pl, nld nl, dut nl, swe sv, dan da, nor no, fin fi, ell el, gre el, hun hu, ces cs,
cze cs, ron ro, rum ro, bul bg, vie vi, ind id, msa ms, may ms, tam ta, tel te, ben bn, urd ur, fas fa, per fa, srp sr,
hrv hr, slk sk, slo sk, slv sl, cat ca, fil tl, tgl tl, yue zh, cantonese zh, lao lo, khm km, mya my, bur my, swa sw,
kat ka, hye hy, filipino tl, ua uk, brazilian pt, italiano it, português pt, polski pl, nederlands nl, svenska sv,
türkçe tr, українська uk, 한국어 ko, ไทย th, हिन्दी hi, עברית he, ελληνικά el
"""
_ALSO |= dict(entry.split() for entry in _MORE.split(","))
_CODES = {**{name.casefold(): code for code, name in NAMES.items()}, **_ALSO, **{code: code for code in NAMES}}


def language_code(written: object) -> str:
    """The code of a language from its tag or its English name; ValueError that names the nearest for an unknown one."""
    whole = unicodedata.normalize("NFC", str(written)).strip().casefold().replace("_", "-")
    primary = re.split("[-.@(]", whole)[0].strip()
    # A name may hold a hyphen or a word before it, as in "simplified chinese", and no name is a code with something
    # behind it.
    code = _CODES.get(whole) or _CODES.get(primary) or (_CODES.get(whole.split()[-1]) if " " in whole else None)
    if code is not None:
        return code
    # What is as short as a code is near to nothing: any two letters have one in common.
    near = [*difflib.get_close_matches(whole, _CODES, 1), *difflib.get_close_matches(primary, _CODES, 1)]
    code = _CODES[near[0]] if near and (len(primary) > 3 or primary.startswith(_CODES[near[0]])) else ""
    hint = f"nearest: {code}, {NAMES[code]}" if code else "a code such as en, zh or pt-BR, or a name such as german"
    raise ValueError(f"is no language that minisheep knows ({hint})")
