"""The sliding window: how many windows, how large, how many at once, and what is next when short.

Nothing here touches a device; `running` does what is decided here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from worker.model_memory import Mode, Shape

# A window keeps sizes that its network can halve as often as the model's own window.
_MOST_HALVINGS = 32
# Under this a network sees too little around a voxel; and under a quarter of what it was made for.
_LEAST_SIDE = 32
_LEAST_SHARE = 4
# More windows at once gain nothing once a card is busy.
_MOST_AT_ONCE = 16
# What is left free of a card's memory: fragments, and other programs that show a picture.
_SHARE_USED = 0.8


def slides(inferer: Any) -> bool:
    """Whether an inferer runs the network on windows, as MONAI's `SlidingWindowInferer` does."""
    return all(hasattr(inferer, name) for name in ("roi_size", "sw_batch_size", "overlap"))


def window_of(inferer: Any, shape: Sequence[int]) -> Shape:
    """Give the model's own window for a volume; MONAI pads a smaller volume up to it.

    Parameters
    ----------
    inferer
        One that slides.
    shape : sequence of int
        Of the volume, without channels.
    """
    wanted = _per_axis(inferer.roi_size, len(shape))
    # MONAI takes the volume's own side where the window has none.
    i, j, k = (
        side if roi is None or roi <= 0 else roi for roi, side in zip(wanted, shape, strict=True)
    )
    return (i, j, k)


def count_calls(inferer: Any, shape: Sequence[int]) -> int:
    """Count the network's calls for one volume; inferers that don't slide call once."""
    if not slides(inferer):
        return 1
    return math.ceil(count_windows(inferer, shape) / max(int(inferer.sw_batch_size), 1))


def count_windows(inferer: Any, shape: Sequence[int]) -> int:
    """Count the windows that cover one volume.

    Parameters
    ----------
    inferer
        One that slides.
    shape : sequence of int
        Of the volume, without channels.
    """
    overlaps = _per_axis(inferer.overlap, len(shape))
    sides = zip(shape, window_of(inferer, shape), overlaps, strict=True)
    return math.prod(_windows_along(size, roi, overlap) for size, roi, overlap in sides)


def inferer_for(mode: Mode, inferer: Any, shape: Sequence[int]) -> Any:
    """Give a copy of a model's inferer that runs in a mode; the same one where nothing differs."""
    if not slides(inferer):
        return inferer
    changed: dict[str, Any] = {}
    if mode.window_batch is not None:
        changed["sw_batch_size"] = mode.window_batch
    if mode.stitching == "host":
        changed["device"] = "cpu"
    if mode.is_one_pass:
        # Nothing to blend, and a small weight times half precision would lose the edges.
        changed |= {"roi_size": whole_window(inferer, shape), "overlap": 0.0, "mode": "constant"}
    elif mode.window is not None:
        changed["roi_size"] = mode.window
    if "roi_size" in changed:
        changed["roi_weight_map"] = None  # made for the model's own window
    return _changed(inferer, changed)


def whole_window(inferer: Any, shape: Sequence[int]) -> Shape:
    """Give a window that holds the whole volume and is divisible as the model's own is."""
    factors = (_factor(side) for side in _configured(inferer, shape))
    i, j, k = (
        math.ceil(side / factor) * factor for side, factor in zip(shape, factors, strict=True)
    )
    return (i, j, k)


def is_one_window(inferer: Any, shape: Sequence[int]) -> bool:
    """Whether the model sees the whole volume at once anyway."""
    return not slides(inferer) or count_windows(inferer, shape) == 1


def step_down(mode: Mode, inferer: Any, shape: Sequence[int], *, is_card: bool) -> Mode | None:
    """Give the mode to try when memory ran out in this one: the one that changes the least first.

    Fewer windows at once, then stitching in the computer's memory, then smaller windows.

    Returns
    -------
    Mode or None
        None when there is nothing smaller that the network allows.
    """
    if not slides(inferer):
        return None
    if mode.is_one_pass:
        return replace(mode, is_one_pass=False)
    at_once = mode.window_batch or int(inferer.sw_batch_size)
    at_once = min(at_once, count_windows(inferer_for(mode, inferer, shape), shape))
    if at_once > 1:
        return replace(mode, window_batch=at_once // 2)
    if is_card and mode.stitching == "device":
        return replace(mode, stitching="host")
    window = smaller_window(mode.window or window_of(inferer, shape), _configured(inferer, shape))
    return None if window is None else replace(mode, window=window, window_batch=1)


def smaller_window(window: Sequence[int], own: Sequence[int]) -> Shape | None:
    """Halve the longest side that can still be halved; None when none can.

    Parameters
    ----------
    window : (3,) sequence of int
        The window that did not fit.
    own : (3,) sequence of int
        The window that the model was made for.
    """
    for axis in sorted(range(len(window)), key=lambda axis: -window[axis]):
        factor = _factor(own[axis])
        half = math.ceil(window[axis] / 2 / factor) * factor
        if half < window[axis] and half >= max(_LEAST_SIDE, own[axis] / _LEAST_SHARE):
            i, j, k = (half if other == axis else int(side) for other, side in enumerate(window))
            return (i, j, k)
    return None


def fitting_batch(*, windows: int, window_bytes: int, stitch_bytes: int, free_bytes: int) -> int:
    """Give how many windows to run at once.

    Parameters
    ----------
    windows : int
        That cover the volume.
    window_bytes : int
        That the network needed for one, as measured.
    stitch_bytes : int
        Of the volume that the windows are blended into.
    free_bytes : int
        Of the device, before either.
    """
    room = free_bytes * _SHARE_USED - stitch_bytes
    most = max(min(int(room // max(window_bytes, 1)), windows, _MOST_AT_ONCE), 1)
    # As few calls as that allows, all of nearly the same size: the last would else be a rest.
    return math.ceil(windows / math.ceil(windows / most))


def _configured(inferer: Any, shape: Sequence[int]) -> Shape:
    """Give the window as the model names it, a multiple of the most halvings where it names none.

    A side that follows the volume promises nothing of what the network can halve.
    """
    wanted = _per_axis(inferer.roi_size, len(shape))
    i, j, k = (
        math.ceil(side / _MOST_HALVINGS) * _MOST_HALVINGS if roi is None or roi <= 0 else int(roi)
        for roi, side in zip(wanted, shape, strict=True)
    )
    return (i, j, k)


def _factor(side: int) -> int:
    """Give the largest power of two that divides a side, as far as networks halve."""
    return math.gcd(side, _MOST_HALVINGS)


def _changed(inferer: Any, attributes: dict[str, Any]) -> Any:
    if not attributes:
        return inferer
    other = copy.copy(inferer)
    for name, value in attributes.items():
        setattr(other, name, value)
    return other


def _per_axis(value: Any, axes: int) -> tuple[Any, ...]:
    if isinstance(value, Sequence):
        return tuple(value)
    return (value,) * axes


def _windows_along(size: int, roi: int, overlap: float) -> int:
    if size <= roi:
        return 1
    step = max(int(roi * (1 - overlap)), 1)  # as MONAI's sliding_window_inference steps
    return math.ceil((size - roi) / step) + 1
