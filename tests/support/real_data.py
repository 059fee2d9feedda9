"""The real images and models beside the project, unpacked once per session.

They are no part of the repository. SEGMENTATION_TEST_DATA names their folder (by default
`../shared/data` beside the checkout); a test that asks for one of these fixtures skips, saying why,
where it is absent.
"""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def real_data_root() -> Path:
    """Return the folder that should hold the real data, whether it exists or not."""
    configured = os.environ.get("SEGMENTATION_TEST_DATA")
    return Path(configured) if configured else REPOSITORY.parent / "shared" / "data"


def real_data_path(name: str) -> Path:
    """Return one file or folder of the real data, or skip the test that asks for it."""
    path = real_data_root() / name
    if not path.exists():
        pytest.skip(f"real data missing: {path} (SEGMENTATION_TEST_DATA names its folder)")
    return path


def unpack(archive: Path, into: Path) -> Path:
    """Unpack an archive that holds one top folder; return that folder."""
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
    (top,) = into.iterdir()
    return top


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the archives, expected masks and bundles (read-only)."""
    return real_data_path(".")


@pytest.fixture(scope="session")
def expected_real_masks() -> dict[str, Any]:
    """Figures of the expected masks, by file name: volumes, boxes, centroids in LPS mm."""
    text = real_data_path("expected.json").read_text(encoding="utf-8")
    figures: dict[str, Any] = json.loads(text)
    return figures


@pytest.fixture(scope="session")
def t1_series_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T1-weighted head MRI, 256 axial slices of 256 x 256, 1 mm."""
    archive = real_data_path("t1_axial_1mm_dicom.tar.xz")
    return unpack(archive, tmp_path_factory.mktemp("t1"))


@pytest.fixture(scope="session")
def breast_series_dirs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four phases of a breast DCE-MRI, 134 slices of 256 x 256 each, in order."""
    archive = real_data_path("ispy2_213913_4series_dicom.tar.xz")
    top = unpack(archive, tmp_path_factory.mktemp("breast"))
    return sorted(path for path in top.iterdir() if path.is_dir())


@pytest.fixture(scope="session")
def vendor_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GE EPI (10 volumes in one series) and a Siemens mosaic, with dcm2niix's NIfTI files."""
    archive = real_data_path("vendor_series.tar.xz")
    return unpack(archive, tmp_path_factory.mktemp("vendor"))


@pytest.fixture(scope="session")
def gwm_light_bundle() -> Path:
    """Real weights, quick: grey and white matter as a MONAI bundle (do not write into it)."""
    return real_data_path("gwm_light")


@pytest.fixture(scope="session")
def mindgrab_bundle() -> Path:
    """Real weights, slow (196 s on two cores): brain extraction as a MONAI bundle."""
    return real_data_path("mindgrab")


@pytest.fixture(scope="session")
def brats_bundle_config() -> Path:
    """The model zoo's BraTS bundle, configuration only."""
    return real_data_path("brats_mri_segmentation")
