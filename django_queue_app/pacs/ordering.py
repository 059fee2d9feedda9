"""Order the slices of a series by their position along the normal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from django_queue_app.pacs.port import Cosines, InstanceSummary, Vector3

# Scanners write direction cosines with five to six decimals; slices of one stack agree to these.
_COSINE_DECIMALS = 3


def order_instances(instances: Iterable[InstanceSummary]) -> tuple[InstanceSummary, ...]:
    """Order along the normal of the commonest orientation, then by number, then by id.

    Instances without a position come last: what they are is for the reader of the series to
    refuse, not for a list.
    """
    listed = list(instances)
    normal = _common_normal(listed)

    def key(one: InstanceSummary) -> tuple[bool, float, float, str]:
        is_placed = normal is not None and one.position is not None
        along = distance_along(one.position, normal) if is_placed else 0.0
        number = one.number if one.number is not None else float("inf")
        return not is_placed, along, number, one.id

    return tuple(sorted(listed, key=key))


def normal_of(orientation: Cosines) -> Vector3:
    """Return the direction in which slices are stacked: row direction x column direction.

    References
    ----------
    DICOM PS3.3 C.7.6.2.1.1
    """
    rx, ry, rz, cx, cy, cz = orientation
    return ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx


def distance_along(position: Vector3 | None, normal: Vector3 | None) -> float:
    """Return how far a position lies along the normal, in mm; 0 if either is missing."""
    if position is None or normal is None:
        return 0.0
    # Rounded to a nanometre, so that slices at one place are ordered by their number.
    return round(sum(p * n for p, n in zip(position, normal, strict=True)), 6)


def _common_normal(instances: list[InstanceSummary]) -> Vector3 | None:
    by_rounded: dict[tuple[float, ...], Cosines] = {}
    counts: Counter[tuple[float, ...]] = Counter()
    for one in instances:
        if one.orientation is not None:
            rounded = tuple(round(cosine, _COSINE_DECIMALS) + 0.0 for cosine in one.orientation)
            by_rounded.setdefault(rounded, one.orientation)
            counts[rounded] += 1
    if not counts:
        return None
    return normal_of(by_rounded[min(counts, key=lambda rounded: (-counts[rounded], rounded))])
