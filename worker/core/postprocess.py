"""What is done to a label map after the model's own postprocessing: components and holes. Pure.

All of it happens on the main series' own grid, so that sizes are those of the mask that is given
out: a component's volume is the number of its voxels times the volume of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.core.geometry import Geometry
from worker.core.segments import Labels, bounding_box

KEEP_LARGEST = ("off", "each", "all")
CONNECTIVITIES = (6, 26)

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Postprocess:
    """Steps, in the order in which they are done; all off by default.

    Parameters
    ----------
    fill_holes : bool
        Give the enclosed background inside a segment to it: what no path through neighbouring
        faces (6-connectivity) leads out of.
    min_volume_ml : float
        Take out components smaller than this; 0 keeps all.
    keep_largest : str
        "each": keep the largest component of each label; "all": of all labels together.
    connectivity : int
        Which voxels belong together: 26 (faces, edges, corners) or 6 (faces).
    """

    fill_holes: bool = False
    min_volume_ml: float = 0.0
    keep_largest: str = "off"
    connectivity: int = 26

    @property
    def is_off(self) -> bool:
        """Whether nothing is done."""
        return not self.fill_holes and self.min_volume_ml <= 0 and self.keep_largest == "off"

    def to_json(self) -> dict[str, Any]:
        """Give the settings as the report shows them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step did: voxels added and taken out, and components taken out, by label value."""

    name: str
    added: dict[int, int]
    removed: dict[int, int]
    components_removed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Give it as the report shows it."""
        return {
            "name": self.name,
            "voxels_added": {str(value): count for value, count in self.added.items()},
            "voxels_removed": {str(value): count for value, count in self.removed.items()},
            "components_removed": self.components_removed,
        }


def postprocess(
    labels: Labels, settings: Postprocess, geometry: Geometry
) -> tuple[Labels, tuple[Step, ...]]:
    """Do the steps that the settings ask for.

    Parameters
    ----------
    labels : Labels
        On the grid of the main series; not changed.
    settings : Postprocess
    geometry : Geometry
        Of the main series.

    Returns
    -------
    Labels
        The same object where nothing is asked for.
    tuple of Step
        What was done, in order.
    """
    if settings.is_off:
        return labels, ()
    changed = replace(labels, array=labels.array.copy(order="K"))
    steps = []
    if settings.fill_holes:
        steps.append(_counted(changed, "fill_holes", _fill_holes))
    if settings.min_volume_ml > 0:
        least = settings.min_volume_ml / geometry.voxel_volume_ml
        steps.append(
            _counted(
                changed,
                "min_volume_ml",
                # A hair below, so that a component of just this volume stays in spite of rounding.
                lambda given: _drop(given, settings, lambda sizes: sizes < least * (1 - 1e-9)),
            )
        )
    if settings.keep_largest != "off":
        steps.append(
            _counted(changed, "keep_largest", lambda given: _drop(given, settings, _but_largest))
        )
    # Anew: its array was changed in place, and what is known of it (its box) must be that of now.
    return replace(changed), tuple(steps)


def _counted(labels: Labels, name: str, change: Callable[[Labels], int]) -> Step:
    before = labels.counts()
    gone = change(labels)
    after = labels.counts()
    apart = {value: after.get(value, 0) - before.get(value, 0) for value in {*before, *after}}
    return Step(
        name=name,
        added={value: n for value, n in sorted(apart.items()) if n > 0},
        removed={value: -n for value, n in sorted(apart.items()) if n < 0},
        components_removed=gone,
    )


def _fill_holes(labels: Labels) -> int:
    """Fill each label's holes; only background is given away, never another label's voxels."""
    for value in sorted(labels.present_values()):
        mask = labels.mask(value)
        box = bounding_box(mask)
        inside = _ndimage().binary_fill_holes(mask[box]) & ~mask[box]
        if labels.is_overlapping:
            labels.array[labels.values.index(value)][box][inside] = 1
        else:
            part = labels.array[box]
            part[inside & (part == 0)] = value
    return 0


def _drop(
    labels: Labels, settings: Postprocess, choose: Callable[[npt.NDArray[np.int64]], BoolArray]
) -> int:
    """Take out the components that `choose` marks by their sizes; give their number."""
    gone = 0
    for values in _groups(labels, settings):
        mask = _union(labels, values)
        if not mask.any():
            continue
        box = bounding_box(mask)
        parts, count = _ndimage().label(mask[box], structure=_structure(settings.connectivity))
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        is_out = np.concatenate([[False], choose(sizes)])
        gone += int(is_out.sum())
        _clear(labels, values, box, is_out[parts])
    return gone


def _groups(labels: Labels, settings: Postprocess) -> Sequence[tuple[int, ...]]:
    present = tuple(sorted(labels.present_values()))
    return [present] if settings.keep_largest == "all" else [(value,) for value in present]


def _union(labels: Labels, values: Sequence[int]) -> BoolArray:
    if not labels.is_overlapping:
        return np.isin(labels.array, values)
    union = np.zeros(labels.shape, dtype=bool)
    for value in values:
        union |= labels.mask(value)
    return union


def _clear(
    labels: Labels, values: Sequence[int], box: tuple[slice, ...], is_out: BoolArray
) -> None:
    if not labels.is_overlapping:
        labels.array[box][is_out] = 0
        return
    for value in values:
        labels.array[labels.values.index(value)][box][is_out] = 0


def _but_largest(sizes: npt.NDArray[np.int64]) -> BoolArray:
    """Mark all but the largest; of equals the first stays, so that the answer is always one."""
    marked = np.ones(len(sizes), dtype=bool)
    marked[int(sizes.argmax())] = False
    return marked


def _ndimage() -> ModuleType:
    # Here and not above: the settings know this module, and SciPy takes a quarter of a second.
    from scipy import ndimage

    module: ModuleType = ndimage
    return module


def _structure(connectivity: int) -> BoolArray:
    return np.asarray(_ndimage().generate_binary_structure(3, 3 if connectivity == 26 else 1))
