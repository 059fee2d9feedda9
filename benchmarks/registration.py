"""What registration costs, how near it comes, and what fit tells a match from a mismatch.

    python -m benchmarks.registration

Demo phantoms, each sequence on its own oblique grid, turned and shifted by known amounts, are laid
onto the main series. The error is the largest distance, over a grid of points in the head, between
where a point is put and where it belongs. Mismatches are other objects: a phantom turned upside
down, and blocks in place of a head.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from demo.anatomy import Anatomy, draw_anatomy
from demo.fields import rotation_from_degrees
from demo.phantom_dicom import MAIN, PROTOCOLS, RAS_TO_LPS, Protocol, acquire
from worker.adapters import registration
from worker.core.errors import SeriesInvalid
from worker.core.geometry import Geometry, SourceInstance, Volume

Matrix = npt.NDArray[np.float64]

# Turned by degrees around x, y, z and shifted by mm.
STARTS = (
    ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ((4.0, -3.0, 5.0), (6.0, -8.0, 4.0)),
    ((8.0, -6.0, 10.0), (14.0, -10.0, 12.0)),
)


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = list(measure(options.seed))
    if options.json:
        print(json.dumps(rows))
        return
    print(
        f"{'pair':32} {'start':>14} {'error mm':>9} {'fit':>13} {'sharp':>6} {'CPU s':>6}  answer"
    )
    for row in rows:
        fit = f"{row['fit_before']:.3f} {row['fit_after']:.3f}"
        print(
            f"{row['pair']:32} {row['start']:>14} {row['error_mm']:>9.2f} {fit:>13} "
            f"{row['sharpness']:>6.2f} "
            f"{row['cpu_s']:>6.1f}  {row['answer']}"
        )


def measure(seed: int) -> Iterator[dict[str, Any]]:
    """Register every pair and give one row for each."""
    anatomy = draw_anatomy(seed, lesions=2)
    fixed = _volume(anatomy, MAIN)
    for protocol in PROTOCOLS[1:]:
        moving = _volume(anatomy, protocol)
        for angles, shift in STARTS:
            true = _rigid(angles, shift)
            name = f"{protocol.sequence} on {MAIN.sequence}"
            yield _row(name, angles, shift, true, _moved(moving, true), fixed)
    upside_down = _moved(_volume(anatomy, PROTOCOLS[2]), _rigid((180.0, 0.0, 0.0), (0.0, 0.0, 0.0)))
    yield _row("upside down on T1c", (180.0, 0, 0), (0, 0, 0), np.eye(4), upside_down, fixed)
    yield _row("blocks on T1c", (0, 0, 0), (0, 0, 0), np.eye(4), _blocks(fixed), fixed)


def _row(
    pair: str,
    angles: tuple[float, ...],
    shift: tuple[float, ...],
    true: Matrix,
    moving: Volume,
    fixed: Volume,
) -> dict[str, Any]:
    found, answer = _registered(moving, fixed)
    return {
        "pair": pair,
        "start": f"{_turn(angles):.0f} deg {np.linalg.norm(shift):.0f} mm",
        "error_mm": _error_mm(np.array(found.matrix_lps), true, fixed.geometry),
        "fit_before": found.fit_before,
        "fit_after": found.fit_after,
        "sharpness": found.sharpness,
        "cpu_s": found.cpu_s,
        "answer": answer,
    }


def _registered(moving: Volume, fixed: Volume) -> tuple[registration.Registration, str]:
    found = registration.find_transform(moving, fixed)
    try:
        registration.check(found, "the series")
    except SeriesInvalid as error:
        return found, error.code
    return found, "registered"


def _turn(angles: tuple[float, ...]) -> float:
    rotation = rotation_from_degrees((angles[0], angles[1], angles[2]))
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))


def _volume(anatomy: Anatomy, protocol: Protocol) -> Volume:
    grid = protocol.grid
    geometry = Geometry(
        shape=grid.shape, affine_lps=RAS_TO_LPS @ grid.affine_ras, frame_of_reference_uid="1.2.3"
    )
    pixels = acquire(anatomy, protocol).pixels.astype(np.float32)
    return Volume(array=pixels, geometry=geometry, sources=_sources(grid.shape[2]))


def _sources(count: int) -> tuple[SourceInstance, ...]:
    return tuple(
        SourceInstance(sop_class_uid="1.2", sop_instance_uid=f"1.2.{k + 1}") for k in range(count)
    )


def _rigid(angles: tuple[float, float, float], shift: tuple[float, float, float]) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_from_degrees(angles)
    matrix[:3, 3] = shift
    return matrix


def _moved(volume: Volume, matrix: Matrix) -> Volume:
    geometry = Geometry(
        shape=volume.geometry.shape,
        affine_lps=matrix @ volume.geometry.affine_lps,
        frame_of_reference_uid="1.2.4",
    )
    return Volume(array=volume.array, geometry=geometry, sources=volume.sources)


def _blocks(fixed: Volume) -> Volume:
    rng = np.random.default_rng(3)
    small = rng.uniform(0, 1000, (5, 5, 4)).astype(np.float32)
    factors = [-(-size // part) for size, part in zip(fixed.array.shape, small.shape, strict=True)]
    large = np.kron(small, np.ones(factors, np.float32))
    i, j, k = fixed.array.shape
    noise = rng.normal(0, 20, fixed.array.shape).astype(np.float32)
    return Volume(array=large[:i, :j, :k] + noise, geometry=fixed.geometry, sources=fixed.sources)


def _error_mm(found: Matrix, true: Matrix, geometry: Geometry) -> float:
    middle = geometry.to_lps((np.array(geometry.shape) - 1) / 2)
    steps = np.array(list(np.ndindex(3, 3, 3))) - 1.0
    points = np.c_[middle + 60.0 * steps, np.ones(27)]
    return float(np.linalg.norm((points @ (found - true).T)[:, :3], axis=1).max())


if __name__ == "__main__":
    main()
