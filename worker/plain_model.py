"""How to run a model that is one file: what a bundle's configuration says, in ten lines of YAML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from worker.core.errors import ModelInvalid

Normalisation = Literal["none", "zscore", "zscore_nonzero", "percentiles", "minmax"]
Output = Literal["argmax", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class PlainModel:
    """The description beside a TorchScript or ``torch.export`` file.

    Parameters
    ----------
    channels : tuple of str
        What each input channel is, in the network's order.
    output_channels : tuple of str
        Names of the outputs: with `argmax` the first is the background.
    spacing_mm : tuple of float, optional
        Voxel size the network was trained on; None leaves the image's own.
    orientation : str
        Axis codes of the network's voxel order, such as ``RAS``.
    normalisation : str
        Of each channel: `none`, `zscore`, `zscore_nonzero`, `percentiles` (1 to 99) or `minmax`.
    roi_size : tuple of int, optional
        Sliding window; None runs the whole volume at once.
    overlap : float
        Of neighbouring windows, 0 to below 1.
    output : str
        `argmax`: exclusive classes; `sigmoid`: one region a channel, which may overlap.
    threshold : float
        For `sigmoid`.
    """

    version: str
    channels: tuple[str, ...]
    output_channels: tuple[str, ...] = ()
    spacing_mm: tuple[float, float, float] | None = None
    orientation: str = "RAS"
    normalisation: Normalisation = "zscore_nonzero"
    roi_size: tuple[int, int, int] | None = None
    overlap: float = 0.25
    output: Output = "argmax"
    threshold: float = 0.5
    intended_use: str = ""


def read_plain_model(path: Path) -> PlainModel:
    """Read the YAML beside a model file.

    Raises
    ------
    ModelInvalid
        Every mistake in it, in one sentence each.
    """
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelInvalid(f"{path} can't be read: {error}.") from error
    if not isinstance(body, dict):
        raise ModelInvalid(f"{path} can't be read: expected a mapping of names to values.")
    values, problems = _read_keys(body)
    if problems:
        raise ModelInvalid("\n".join(f"{path.name}: {problem}" for problem in problems))
    return PlainModel(**values)


def _read_keys(body: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    problems = [f"{key}: unknown key" for key in body if key not in {*_READERS, "name"}]
    problems += [f"{key}: missing" for key in ("version", "channels") if key not in body]
    for key, (read, expected) in _READERS.items():
        if body.get(key) is None:
            continue
        try:
            values[key] = read(body[key])
        except (TypeError, ValueError):
            problems.append(f"{key}: expected {expected}, got {body[key]!r}")
    return values, problems


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError
    return tuple(str(name) for name in value)


def _triple(kind: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def read(value: Any) -> tuple[Any, ...]:
        numbers = tuple(kind(number) for number in value)
        if isinstance(value, str) or len(numbers) != 3 or min(numbers) <= 0:
            raise ValueError
        return numbers

    return read


def _between(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        number = float(value)
        if not low <= number < high:
            raise ValueError
        return number

    return read


def _one_of(choices: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    return read


def _axis_codes(value: Any) -> str:
    codes = str(value).upper()
    pairs = ("LR", "PA", "IS")
    if len(codes) != 3 or any(sum(code in pair for code in codes) != 1 for pair in pairs):
        raise ValueError
    return codes


_READERS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "version": (str, "a text"),
    "channels": (_names, "a list of names"),
    "output_channels": (_names, "a list of names"),
    "spacing_mm": (_triple(float), "three numbers > 0"),
    "orientation": (_axis_codes, "three axis codes such as RAS"),
    "normalisation": (
        _one_of(get_args(Normalisation)),
        f"one of {', '.join(get_args(Normalisation))}",
    ),
    "roi_size": (_triple(int), "three whole numbers > 0"),
    "overlap": (_between(0, 1), "a number from 0 to below 1"),
    "output": (_one_of(get_args(Output)), "argmax or sigmoid"),
    "threshold": (_between(0, 1), "a number from 0 to below 1"),
    "intended_use": (str, "a text"),
}
