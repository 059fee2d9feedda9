"""Reads one mapping of a YAML file key by key, and collects every problem instead of raising.

A problem is one line: ``config.yaml: server.wait_s: expected a number > 0, got 'fast'``.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

_T = TypeVar("_T")
_LONGEST_SHOWN = 60


class Problems:
    """Every mistake found so far, with the name of the file it is in."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: list[str] = []

    def add(self, key: str, expected: str, got: object) -> None:
        """Note that `key` was expected to be one thing and is another."""
        where = key if _is_environment(key) else f"{self.source}: {key}"
        self.lines.append(f"{where}: expected {expected}, got {show(got)}")

    def add_sentence(self, sentence: str) -> None:
        """Note a mistake that has no key of its own."""
        self.lines.append(f"{self.source}: {sentence}")


def _is_environment(key: str) -> bool:
    return key.isupper()


def show(value: object) -> str:
    """Give a value as it looks in the message, never longer than a line."""
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


class Section:
    """One mapping of the file; remembers which of its keys were asked for."""

    def __init__(self, values: Mapping[Any, Any], *, path: str, problems: Problems) -> None:
        self._values = values
        self._path = path
        self._problems = problems
        self._known: set[str] = set()

    def key(self, name: object) -> str:
        """Give the whole dotted key."""
        return f"{self._path}.{name}" if self._path else str(name)

    def raw(self, name: str) -> Any:
        """Give the value as YAML read it, None where it is absent or empty."""
        self._known.add(name)
        return self._values.get(name)

    def section(self, name: str) -> Section:
        """Give a mapping inside this one; an empty one where it is absent or of another kind."""
        value = self.raw(name)
        if value is not None and not isinstance(value, Mapping):
            self._problems.add(self.key(name), "keys with values", value)
            value = None
        return Section(value or {}, path=self.key(name), problems=self._problems)

    def items(self, name: str) -> list[tuple[Any, Any]]:
        """Give the keys and values of a mapping whose keys are free to choose."""
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, Mapping):
            self._problems.add(self.key(name), "keys with values", value)
            return []
        return list(value.items())

    def inner(self, name: object, value: object) -> Section | None:
        """Give a section for one of `items`, or None and a problem."""
        if not isinstance(value, Mapping):
            self._problems.add(self.key(name), "keys with values", value)
            return None
        return Section(value, path=self.key(name), problems=self._problems)

    def text(self, name: str, default: _T) -> str | _T:
        """Give a text that is not empty."""
        value: str | _T = self._take(name, default, as_text, "a text")
        return value

    def number(self, name: str, default: float, *, above: float = 0, most: float = 1e9) -> float:
        """Give a finite number > `above` and <= `most`."""
        limit = f" and <= {most:g}" if most < 1e9 else ""
        value: float = self._take(
            name, default, as_number(above, most), f"a number > {above:g}{limit}"
        )
        return value

    def whole(self, name: str, default: int, *, least: int = 0) -> int:
        """Give a whole number >= `least`."""
        value: int = self._take(name, default, as_whole(least), f"a whole number >= {least}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Give true or false."""
        value: bool = self._take(name, default, as_flag, "true or false")
        return value

    def choice(self, name: str, default: str, choices: Iterable[str]) -> str:
        """Give one of a few words."""
        known = tuple(choices)
        expected = "one of " + ", ".join(known)
        value: str = self._take(
            name, default, lambda value: value if value in known else None, expected
        )
        return value

    def parsed(
        self, name: str, default: _T, parse: Callable[[Any], _T | None], expected: str
    ) -> _T:
        """Give what `parse` makes of the value; None from it means it is not what was expected."""
        value: _T = self._take(name, default, parse, expected)
        return value

    def path(self, name: str, default: str | None, *, base: Path) -> Path | None:
        """Give a path; a relative one starts at `base`."""
        text = self.text(name, default)
        return None if text is None else (base / Path(text).expanduser()).resolve()

    def _take(self, name: str, default: Any, parse: Callable[[Any], Any], expected: str) -> Any:
        value = self.raw(name)
        if value is None:
            return default
        parsed = parse(value)
        if parsed is None:
            self._problems.add(self.key(name), expected, value)
            return default
        return parsed

    def missing(self, name: str, expected: str) -> None:
        """Note that a key that must be there isn't."""
        self._problems.add(self.key(name), expected, None)

    def misnamed(self, name: object, expected: str) -> None:
        """Note that a key that is free to choose is not what was expected."""
        self._problems.add(self._path, f"{expected} as key", name)

    def end(self) -> None:
        """Note every key that nothing asked for, with the one that was probably meant."""
        for name in self._values:
            if name in self._known:
                continue
            near = difflib.get_close_matches(str(name), sorted(self._known), n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(sorted(self._known))
            )
            self._problems.add_sentence(f"{self.key(name)}: unknown key, {hint}")


def as_text(value: Any) -> str | None:
    """Give a text that is not blank, else None. A bare number in YAML counts as its text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value).strip() or None


def as_number(above: float, most: float) -> Callable[[Any], float | None]:
    """Give a parser of finite numbers > `above` and <= `most`; it reads texts too."""

    def parse(value: Any) -> float | None:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        try:
            number = float(value)
        except ValueError:
            return None
        return number if math.isfinite(number) and above < number <= most else None

    return parse


def as_whole(least: int) -> Callable[[Any], int | None]:
    """Give a parser of whole numbers >= `least`."""

    def parse(value: Any) -> int | None:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return value if is_whole and value >= least else None

    return parse


def as_flag(value: Any) -> bool | None:
    """Give true or false, else None."""
    return value if isinstance(value, bool) else None


def as_device(value: Any) -> str | None:
    """Give a device in our words: auto, cpu, cuda, cuda:N."""
    text = str(value).strip().lower()
    return text if re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", text) else None


def as_devices(value: Any) -> tuple[str, ...] | None:
    """Give one device or several, as a list or with commas between them; each once."""
    parts = value if isinstance(value, list) else str(value).split(",")
    devices = [as_device(part) for part in parts]
    is_plain = all(device is not None and device != "auto" for device in devices)
    if not devices or len(set(devices)) < len(devices) or not (is_plain or len(devices) == 1):
        return None
    return None if None in devices else tuple(str(device) for device in devices)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that is written twice; plain YAML silently keeps the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                continue
            line = key_node.start_mark.line + 1
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key!r} is there already, in line {seen[key]}",
                    key_node.start_mark,
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


def read_yaml(text: str, problems: Problems) -> Mapping[Any, Any]:
    """Parse YAML text; a mistake in it becomes one sentence with its line."""
    try:
        body = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        problems.add_sentence(_yaml_sentence(error, text))
        return {}
    if body is None:
        return {}
    if not isinstance(body, Mapping):
        problems.add_sentence(f"expected keys with values, got {show(body)}")
        return {}
    return body


def _yaml_sentence(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"not readable as YAML ({error})"
    line = mark.line + 1
    lines = text.splitlines()
    written = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return f"line {line}: indented with a tab; YAML wants spaces"
    return f"line {line}: {getattr(error, 'problem', None) or 'not readable as YAML'}"
