"""A network on another grid than the images: its mask lies where the truth does.

The bundle is a real one in all but its network: MONAI's own Orientationd and Spacingd bring the
image to 1.7 x 1.1 x 1.4 mm in LIA order, Invertd brings the prediction back.
"""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.integration.engine.bundles import (
    CHANNEL_FIRST,
    INVERT,
    LOAD,
    ORIENTATION,
    SIGMOID,
    SPACING,
    THRESHOLD,
    compose,
    describe,
    write_bundle,
)
from tests.support.dicom_phantoms import Grid, Phantom, write_enhanced, write_series
from tests.support.orientations import Placed, axis_orientations, oblique_orientations
from worker.adapters.engine_monai import MonaiEngine
from worker.core.job import Case, SeriesFiles
from worker.pipeline import segment_case

OWN_SPACING = [1.7, 1.1, 1.4]
SAMPLE = [*axis_orientations()[:48:8], *oblique_orientations()[:6]]
# Centre (voxels) and radius (mm) of the balls; off the middle, and of different sizes.
BALLS = (((8, 6, 5), 6.0), ((17, 14, 9), 4.0))
SCALE = 1000  # stored value of the number 1


def balls(grid: Grid) -> np.ndarray:
    """Paint stored values that pass 0.5 at the balls' surfaces: (I, J, K), smooth everywhere.

    Smooth, since a network that sees samples of an edge can't know where between them it was.
    """
    points = np.moveaxis(np.indices(grid.shape), 0, -1) * np.array(grid.spacing_mm)
    found = np.zeros(grid.shape)
    for centre, radius in BALLS:
        away = np.linalg.norm(points - np.array(centre) * grid.spacing_mm, axis=-1)
        found = np.maximum(found, 1 / (1 + np.exp((away - radius) / 2.0)))
    return np.rint(found * SCALE).astype(np.uint16)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.fixture(scope="module")
def engine() -> MonaiEngine:
    return MonaiEngine("cpu")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(
        tmp_path_factory.mktemp("bundle"),
        channels=("T1",),
        outputs=("blob",),
        preprocessing=compose(
            compose(LOAD, CHANNEL_FIRST), ORIENTATION, {**SPACING, "pixdim": OWN_SPACING}
        ),
        postprocessing=compose(SIGMOID, INVERT, THRESHOLD),
        # Gentle, so that the output still tells where between two voxels it passes the threshold.
        weights={"weight": torch.ones(1, 1, 1, 1, 1), "bias": torch.full((1,), -0.5)},
    )


@pytest.mark.parametrize("loader", ["classic", "enhanced"])
@pytest.mark.parametrize("placed", SAMPLE, ids=lambda placed: placed.name)
def test_mask_of_a_network_on_its_own_grid_lies_where_the_truth_is(
    tmp_path: Path, engine: MonaiEngine, bundle: Path, placed: Placed, loader: str
) -> None:
    grid = replace(placed.grid, spacing_mm=(0.9, 1.3, 2.5))
    phantom = Phantom(grid=grid, order=placed.order, slope=1 / SCALE)
    array = balls(grid)
    files = (
        write_series(tmp_path / "in", phantom, array=array)
        if loader == "classic"
        else write_enhanced(tmp_path / "in.dcm", phantom, array=array)
    )
    case = Case(
        request_id="r1",
        series=(SeriesFiles(series_id="s", files=files),),
        main_series_id="s",
        model="small",
        output_dir=tmp_path / "out",
    )
    segment_case(
        case,
        model=describe(bundle, values=(1,)),
        engine=engine,
        on_progress=lambda _stage, _fraction: None,
    )
    found = np.asarray(nib.load(tmp_path / "out" / "mask.nii.gz").dataobj) > 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["result"]["tumor_detected"]
    truth = array > SCALE / 2
    assert dice(found, truth) > 0.92
    # The centre of all voxels, in mm along the three axes: half a voxel is 0.45 or more.
    apart = (np.argwhere(found).mean(axis=0) - np.argwhere(truth).mean(axis=0)) * grid.spacing_mm
    assert np.abs(apart).max() < 0.3
    for axis in range(3):
        assert dice(np.flip(found, axis), truth) < 0.8
