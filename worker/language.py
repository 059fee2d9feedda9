"""The program's words in the reader's language: English as it is written, Korean by the catalogue.

A sentence travels in English, with its values in it: into the log, over the pipe of the child and
to the site, whose contract it is. Only where a person reads it is it said in another language. So
the catalogue (`locale/ko/LC_MESSAGES/worker.po`) holds each sentence as the source writes it, with
`{0}`, `{1}` where values stand, and a finished sentence is found by what stands between them.
Values that are words themselves ("the computer") are looked up in the same way.
"""

from __future__ import annotations

import gettext
import locale
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DOMAIN = "worker"
LOCALE_DIR = Path(__file__).parent / "locale"
ENGLISH, KOREAN = "en", "ko"
LANGUAGES = (ENGLISH, KOREAN)
AUTO = "auto"

_HOLE = re.compile(r"\{(\d+|one|other)\}")
_CONTEXT_END = "\x04"
# A sentence in a sentence in a list: more is no sentence of ours.
_DEEPEST = 4
# Beyond this a text is somebody else's, such as a proxy's page.
_LONGEST = 4000
_LISTS = ("; ", ", ")
_SENTENCE_END = re.compile(r"(?<=[.?!]) (?=[A-Z])")
_MOST_STEPS = 200
# What says less, such as "{0} on {1}", must have plain or known values around it.
_FEWEST_LETTERS = 6
_TITLE = "title"

_DIGITS = "0123456789"
# The final consonant of each digit as it is read (영, 일, 이, ...) as Unicode counts them; 0: none.
_FINAL_RIEUL = 8
_FINAL_OF_DIGITS = (21, 8, 0, 16, 0, 0, 1, 8, 8, 0)
# After a letter a digit is read in English: T1 is "티원".
_FINAL_IN_ENGLISH = (0, 4, 0, 0, 0, 0, 0, 4, 19, 4)
_PARTICLE = re.compile(r"([A-Za-z]?)([0-9가-힣])([\"')\]]*)(은\(는\)|이\(가\)|을\(를\)|\(으\)로)")

_chosen = ENGLISH


def choose(wanted: str = AUTO, environ: Mapping[str, str] | None = None) -> str:
    """Choose the language of the console.

    Parameters
    ----------
    wanted : str
        en, ko, or auto: that of the system.
    environ : mapping of str to str, optional
        The process's own by default; `WORKER_LANG` in it goes before `wanted`.

    Returns
    -------
    str
        en or ko.
    """
    values = os.environ if environ is None else environ
    for name in (values.get("WORKER_LANG", ""), wanted):
        if language_of(name) in LANGUAGES:
            return language_of(name)
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if values.get(name):
            return KOREAN if language_of(values[name]) == KOREAN else ENGLISH
    return KOREAN if _is_windows_korean() else ENGLISH


def language_of(name: str) -> str:
    """Give the language of a locale's name: `ko` for ko_KR.UTF-8, ko-KR and Korean_Korea."""
    word = re.split(r"[_.@-]", name.strip().lower())[0]
    return {"korean": KOREAN, "english": ENGLISH}.get(word, word)


def _is_windows_korean() -> bool:
    if os.name != "nt":
        return False
    # Windows has no LANG; its own setting is what an empty locale stands for.
    locale.setlocale(locale.LC_CTYPE, "")
    return language_of(locale.getlocale()[0] or "") == KOREAN


def use(language: str) -> None:
    """Speak a language from now on, in this process."""
    global _chosen
    _chosen = language
    # click's own words ("Usage", "No such option") are looked up in the program's domain.
    gettext.bindtextdomain(DOMAIN, str(LOCALE_DIR))
    gettext.textdomain(DOMAIN)
    os.environ["LANGUAGE"] = language


def current() -> str:
    """Give the language in use."""
    return _chosen


def said(text: str) -> str:
    """Say a text of this program in the language in use; what isn't known stays as it is."""
    return text if _chosen == ENGLISH else in_korean(text)


def named(kind: str, word: str) -> str:
    """Say a single word, such as a stage, in the language in use."""
    if _chosen == ENGLISH:
        return word
    return _catalogue().words.get(kind + _CONTEXT_END + word, word)


def in_korean(text: str) -> str:
    """Say a finished sentence, or several lines of them, in Korean; as it is where unknown."""
    if len(text) > _LONGEST:
        return text
    pieces = [_translated(piece, 0) for piece in _SENTENCE_END.split(text)]
    if None not in pieces:
        return " ".join(filter(None, pieces))
    whole = _translated(text, 0)
    if whole is not None:
        return whole
    return "\n".join(_translated(line, 0) or line for line in text.split("\n"))


def _translated(text: str, depth: int) -> str | None:
    """Give the Korean of a text, None where the catalogue doesn't know it."""
    known = _catalogue()
    if text in known.words:
        return known.words[text]
    if depth >= _DEEPEST:
        return None
    return _titled(text, depth) or _filled(known.sentences, text, depth)


def _titled(text: str, depth: int) -> str | None:
    """Say "Series 2 (FLAIR): <sentence>": what stands before the colon is no part of it."""
    title, colon, rest = text.partition(": ")
    said_title = _filled(_catalogue().titles, title, depth) if colon else None
    return None if said_title is None else f"{said_title}: {_part(rest, depth + 1)}"


def _filled(templates: Sequence[_Template], text: str, depth: int) -> str | None:
    for template in templates:
        values = template.match(text)
        if values is None:
            continue
        parts = {name: _part(value, depth + 1) for name, value in values.items()}
        if template.is_sure or all(
            " " not in values[name] or parts[name] != values[name] for name in parts
        ):
            return with_particles(template.filled(parts))
    return None


def _part(text: str, depth: int) -> str:
    """Say a value in Korean if it is words of ours, or a list of them."""
    for comma in _LISTS:
        pieces = [_translated(piece, depth) for piece in text.split(comma)]
        if len(pieces) > 1 and None not in pieces:
            return comma.join(filter(None, pieces))
    return _translated(text, depth) or text


def with_particles(text: str) -> str:
    """Choose each particle by the sound before it: "3을(를)" becomes "3을"; letters keep both."""
    return _PARTICLE.sub(_particle, text)


def _particle(found: re.Match[str]) -> str:
    letter, before, closing, both = found.groups()
    if before in _DIGITS:
        final = (_FINAL_IN_ENGLISH if letter else _FINAL_OF_DIGITS)[int(before)]
    else:
        final = (ord(before) - 0xAC00) % 28
    if both == "(으)로":
        chosen = "로" if final in (0, _FINAL_RIEUL) else "으로"
    else:
        with_final, without = both[0], both[2]
        chosen = with_final if final else without
    return letter + before + closing + chosen


@dataclass(frozen=True)
class _Template:
    """One sentence with holes: the texts around them, their names, and the Korean."""

    pieces: Sequence[str]
    names: Sequence[str]
    korean: str

    @classmethod
    def of(cls, english: str, korean: str) -> _Template:
        parts = _HOLE.split(english)
        return cls(pieces=parts[::2], names=parts[1::2], korean=korean)

    @property
    def weight(self) -> int:
        """How many letters are given: the more, the surer a match."""
        return sum(map(len, self.pieces))

    @property
    def is_sure(self) -> bool:
        """Whether it says enough to be told from a sentence of somebody else's."""
        return sum(map(str.isalpha, "".join(self.pieces))) >= _FEWEST_LETTERS

    def match(self, text: str) -> dict[str, str] | None:
        """Give the values by name, if the text is this sentence."""
        first, last = self.pieces[0], self.pieces[-1]
        if not (text.startswith(first) and text.endswith(last)):
            return None
        inner = text[len(first) : len(text) - len(last)]
        values = _split(inner, self.pieces[1:-1], [_MOST_STEPS])
        return None if values is None else dict(zip(self.names, values, strict=True))

    def filled(self, values: Mapping[str, str]) -> str:
        """Put the values into the Korean sentence."""
        return _HOLE.sub(lambda hole: values.get(hole.group(1), hole.group()), self.korean)


def _split(text: str, pieces: Sequence[str], left: list[int]) -> list[str] | None:
    """Split a text at all pieces, in order, so that each value has its brackets closed.

    `left` bounds the tries, so that no text takes long, whoever wrote it.
    """
    if not pieces:
        return [text] if _is_value(text) else None
    at = text.find(pieces[0], 1)
    while at > 0 and left[0] > 0:
        left[0] -= 1
        rest = text[at + len(pieces[0]) :]
        values = _split(rest, pieces[1:], left) if _is_value(text[:at]) else None
        if values is not None:
            return [text[:at], *values]
        at = text.find(pieces[0], at + 1)
    return None


def _is_value(text: str) -> bool:
    depth = 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth < 0 or letter == "\n":
            return False
    return bool(text) and depth == 0


@dataclass(frozen=True)
class _Catalogue:
    """The Korean of single words and whole sentences, of titles, and of sentences with values."""

    words: Mapping[str, str]
    titles: Sequence[_Template]
    sentences: Sequence[_Template]


@cache
def _catalogue() -> _Catalogue:
    """Read the Korean catalogue, once."""
    try:
        found = gettext.translation(DOMAIN, str(LOCALE_DIR), [KOREAN], fallback=True)
    except (OSError, ValueError, struct.error):
        # A damaged file of the installation must not keep a mask from being delivered.
        found = gettext.NullTranslations()
    every: dict[object, str] = getattr(found, "_catalog", {})
    # "" has the file's head; those with a plural (a pair as key) are click's, which looks them up.
    texts = {key: text for key, text in every.items() if isinstance(key, str) and key}
    words, titles, sentences = dict[str, str](), list[_Template](), list[_Template]()
    for key, korean in texts.items():
        context, end, english = key.rpartition(_CONTEXT_END)
        if not _HOLE.search(key):
            words[key] = korean
        elif context == _TITLE:
            titles.append(_Template.of(english, korean))
        elif not end:
            sentences.append(_Template.of(key, korean))
    sentences.sort(key=lambda item: item.weight, reverse=True)
    return _Catalogue(words=words, titles=titles, sentences=sentences)
