"""How each model's network is run here, kept from one case to the next: a small file, no torch.

A mode that was measured (`models bench`) or found because memory ran out is tried first next time.
The file is a convenience: lost or damaged it is begun anew, and it can never fail a case.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from worker.core.errors import WorkerError
from worker.durable import make_folder, write_json

logger = logging.getLogger(__name__)

FILE_NAME = "network_modes.json"
PRECISIONS = ("float32", "fp16", "bf16")
LAYOUTS = ("contiguous", "channels_last_3d")
PLACES = ("device", "host")

# Why a mode is remembered.
MEASURED, STEPPED_DOWN, SIZED = "measured", "stepped_down", "sized"
REASONS = (MEASURED, STEPPED_DOWN, SIZED)

_FORMAT = 1
# Volumes whose sides round up to the same multiples of this share what was learned: memory hardly
# differs between them, and networks halve their input at most five times.
_CLASS_STEP = 32
_MOST_ENTRIES = 500

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Mode:
    """How a network is run. The default is the reference: contiguous float32, the model's windows.

    Parameters
    ----------
    precision : str
        float32, fp16 or bf16 (the last two on a GPU only).
    layout : str
        contiguous or channels_last_3d (on a GPU only: the CPU's GroupNorm is wrong in it).
    is_compiled : bool
        By ``torch.compile``.
    window_batch : int, optional
        Windows run at once; None leaves the model's own number, or sizes it to a GPU's memory.
    stitching : str
        Where the windows are blended into one volume: device or host.
    window : (3,) tuple of int, optional
        Smaller than the model's own, because that did not fit.
    is_one_pass : bool
        The whole volume at once instead of the model's windows.
    """

    precision: str = "float32"
    layout: str = "contiguous"
    is_compiled: bool = False
    window_batch: int | None = None
    stitching: str = "device"
    window: Shape | None = None
    is_one_pass: bool = False

    def __post_init__(self) -> None:
        is_batch = self.window_batch is None or (
            _is_whole(self.window_batch) and self.window_batch > 0
        )
        is_known = (
            self.precision in PRECISIONS and self.layout in LAYOUTS and self.stitching in PLACES
        )
        if not is_batch or not is_known:
            raise ValueError(f"no mode: {self}")

    def to_json(self) -> dict[str, Any]:
        """Give it as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Mode:
        """Read what `to_json` gave.

        Raises
        ------
        ValueError, TypeError
            Something else.
        """
        known = {item.name for item in fields(cls)}
        values = {name: value for name, value in body.items() if name in known}
        flags = (values.get("is_compiled", False), values.get("is_one_pass", False))
        if not all(isinstance(flag, bool) for flag in flags):
            raise ValueError("expected true or false")
        return cls(**values | {"window": _shape(values.get("window"))})

    def describe(self) -> str:
        """Say it in a few words, the reference's own left out."""
        parts = [self.precision]
        if self.layout != "contiguous":
            parts.append(self.layout)
        if self.is_compiled:
            parts.append("compiled")
        if self.is_one_pass:
            parts.append("one pass")
        if self.window is not None:
            parts.append("windows of " + "x".join(map(str, self.window)))
        if self.window_batch is not None:
            parts.append(f"{self.window_batch} windows at once")
        if self.stitching == "host":
            parts.append("stitched on the CPU")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Where:
    """What a mode was learned for: a model, a device and a class of volumes.

    Parameters
    ----------
    model_sha256 : str
        Over the model's files: another version learns anew.
    device : str
        Name and total memory.
    torch : str
        Its version: another one computes differently, so nothing is proved for it.
    shape : (3,) tuple of int
        Of the network's input, as `shape_class` rounds it.
    """

    model_sha256: str
    device: str
    torch: str
    shape: Shape

    @property
    def voxels(self) -> int:
        """Of the largest volume of this class."""
        return math.prod(self.shape)

    def is_same_place(self, other: Where) -> bool:
        """Whether only the volume differs."""
        return replace(self, shape=other.shape) == other


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """A mode that worked.

    Parameters
    ----------
    reason : str
        measured (by `models bench`), stepped_down (memory ran out) or sized (to a GPU's memory).
    evidence : mapping
        What was measured: seconds, Dice, peak memory.
    """

    where: Where
    mode: Mode
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give it as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Remembered:
        """Read what `to_json` gave; raises KeyError, TypeError or ValueError on anything else."""
        place = body["where"]
        shape = _shape(place["shape"])
        texts = [place[key] for key in ("model_sha256", "device", "torch")]
        reason, evidence = body["reason"], body.get("evidence", {})
        is_text = all(isinstance(text, str) for text in texts)
        if shape is None or not is_text or reason not in REASONS or not isinstance(evidence, dict):
            raise ValueError("not what was written")
        where = Where(model_sha256=texts[0], device=texts[1], torch=texts[2], shape=shape)
        mode = Mode.from_json(body["mode"])
        return cls(where=where, mode=mode, reason=reason, evidence=evidence)


def shape_class(shape: Sequence[int]) -> Shape:
    """Round the sides of a volume up, so that volumes of nearly the same size share a class."""
    i, j, k = (math.ceil(size / _CLASS_STEP) * _CLASS_STEP for size in shape)
    return (i, j, k)


class ModelMemory:
    """The file of remembered modes; safe from several threads of this process.

    Another process may write it, too (`models bench` beside the daemon): it is read anew each time,
    and of two writes at once one may be lost, which costs learning it again.

    Parameters
    ----------
    folder : Path, optional
        The work folder; None remembers for this process's life only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = None if folder is None else folder / FILE_NAME
        self._lock = threading.Lock()
        self._own: tuple[Remembered, ...] = ()

    def recall(self, where: Where) -> Remembered | None:
        """Give what was learned for this class, or was measured on a larger one.

        What fits and computes rightly on a larger volume does so on a smaller; not the other way
        round. One pass instead of windows is another mask, and holds for its own class alone.
        """
        here = [item for item in self.entries() if item.where.is_same_place(where)]
        for item in here:
            if item.where.shape == where.shape:
                return item
        larger = [
            item for item in here if item.reason == MEASURED and _holds(item.where, where.shape)
        ]
        found = min(larger, key=lambda item: item.where.voxels, default=None)
        return found and replace(found, mode=replace(found.mode, is_one_pass=False))

    def keep(self, item: Remembered) -> None:
        """Remember a mode instead of an earlier one for the same place; never fails."""
        with self._lock:
            others = (other for other in self._read() if other.where != item.where)
            self._write([item, *others])

    def forget(self, model_sha256: str | None = None) -> int:
        """Forget one model's modes, or all; give how many there were."""
        with self._lock:
            before = self._read()
            kept = [
                item
                for item in before
                if model_sha256 is not None and item.where.model_sha256 != model_sha256
            ]
            if len(kept) < len(before):
                self._write(kept)
        return len(before) - len(kept)

    def entries(self) -> tuple[Remembered, ...]:
        """Give all that is remembered, the newest first."""
        with self._lock:
            return self._read()

    def _read(self) -> tuple[Remembered, ...]:
        if self._path is None:
            return self._own
        try:
            body = json.loads(self._path.read_text(encoding="utf-8"))
            if body["format"] != _FORMAT:
                return self._own
            found = tuple(Remembered.from_json(item) for item in body["entries"])
        except FileNotFoundError:
            return self._own
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("network_modes_unreadable", extra={"reason": type(error).__name__})
            return self._own
        return found

    def _write(self, items: Iterable[Remembered]) -> None:
        kept = tuple(items)[:_MOST_ENTRIES]
        if self._path is None:
            self._own = kept
            return
        body = {"format": _FORMAT, "entries": [item.to_json() for item in kept]}
        try:
            make_folder(self._path.parent)
            write_json(self._path, body)
        except (OSError, WorkerError) as error:
            # It is remembered in this process all the same; a case must not fail for it.
            self._own = kept
            logger.warning("network_modes_not_kept", extra={"reason": type(error).__name__})
        else:
            self._own = ()  # the file has it; deleted, it is forgotten


def _holds(where: Where, shape: Shape) -> bool:
    return all(own >= wanted for own, wanted in zip(where.shape, shape, strict=True))


def _shape(value: Any) -> Shape | None:
    if value is None:
        return None
    i, j, k = value
    if not all(_is_whole(size) and size > 0 for size in (i, j, k)):
        raise ValueError(f"no shape: {value}")
    return (i, j, k)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
