"""What other programs make of our DICOM SEG, for every model's codes and every kind of SEG."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from benchmarks.models import real_models
from tests.support.dicom_phantoms import OBLIQUE, Phantom, uid, write_series
from tests.support.imaging_models import LESION
from tests.support.orientations import (
    LANDMARKS,
    Placed,
    axis_orientations,
    centroids,
    oblique_orientations,
    picture,
    places,
    truth,
)
from tests.support.orthanc_server import OrthancServer
from worker.adapters.dicom_read import open_series
from worker.adapters.dicom_seg import MaskRequest, write_dicom_seg
from worker.core.job import ModelIdentity
from worker.core.segments import SEG_TYPES, Labels, SegmentSpec
from worker.settings import load_settings

DCMQI = Path(sys.executable).parent / "segimage2itkimage"
REPOSITORY = Path(__file__).resolve().parents[3]
MODEL = ModelIdentity(name="phantom_model", version="1", sha256="0123456789abcdef" * 4)
SPECS = tuple(
    replace(LESION, label_value=label, label=f"Landmark {label}", color_rgb=None)
    for label in LANDMARKS
)
SAMPLE = [*axis_orientations()[:48:12], *oblique_orientations()[:2]]
LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_mask(
    folder: Path, phantom: Phantom, labels: Labels, specs: tuple[SegmentSpec, ...], seg_type: str
) -> Path:
    files = write_series(folder / "in", phantom, array=picture(phantom.grid))
    request = MaskRequest(
        request_id="r1",
        labels=labels,
        specs=specs,
        main=open_series(files),
        others=(),
        model=MODEL,
        seg_type=seg_type,
    )
    write_dicom_seg(request, folder / "mask.dcm")
    return folder / "mask.dcm"


@pytest.mark.parametrize("seg_type", SEG_TYPES)
@pytest.mark.parametrize("placed", SAMPLE, ids=lambda placed: placed.name)
def test_dcmqi_finds_the_same_voxels_at_the_same_place(
    tmp_path: Path, placed: Placed, seg_type: str
) -> None:
    labels = Labels(array=truth(placed.grid), values=tuple(LANDMARKS))
    path = write_mask(tmp_path, placed.phantom, labels, SPECS, seg_type)
    command = [str(DCMQI), "--inputDICOM", str(path), "--outputDirectory", str(tmp_path)]
    subprocess.run(
        [*command, "--outputType", "nii", "--prefix", "s", "--mergeSegments"],
        check=True,
        capture_output=True,
    )
    (found,) = tmp_path.glob("s-*.nii.gz")
    image = nib.load(found)
    array = np.asarray(image.dataobj).astype(int)
    np.testing.assert_allclose(
        centroids(array, LPS_RAS @ image.affine), places(placed.grid), atol=0.01, rtol=0
    )
    assert [np.count_nonzero(array == label) for label in LANDMARKS] == [27] * len(LANDMARKS)


@pytest.mark.orthanc
@pytest.mark.parametrize("seg_type", SEG_TYPES)
def test_orthanc_keeps_the_mask_as_it_is(
    tmp_path: Path, orthanc: OrthancServer, seg_type: str
) -> None:
    placed = SAMPLE[-1]
    labels = Labels(array=truth(placed.grid), values=tuple(LANDMARKS))
    path = write_mask(tmp_path, placed.phantom, labels, SPECS, seg_type)
    stored = orthanc.call("POST", "/instances", data=path.read_bytes()).json()
    assert stored["Status"] == "Success"
    assert orthanc.call("GET", f"/instances/{stored['ID']}/file").content == path.read_bytes()
    tags = orthanc.call("GET", f"/instances/{stored['ID']}/simplified-tags").json()
    assert tags["StudyInstanceUID"] == uid("study")
    assert len(tags["SegmentSequence"]) == len(SPECS) + (seg_type == "labelmap")  # background


def commented_models() -> dict[str, Any]:
    """Read the models that config.yaml shows as comments, as a person would take them over."""
    text = (REPOSITORY / "config.yaml").read_text(encoding="utf-8")
    section = text[text.index("\nmodels:") : text.index("\nlog:")]
    lines = [
        re.sub(r"^  # ?", "  ", line)
        for line in section.splitlines()
        if re.match(r"^  # (\w+:$|  )", line) and not line.rstrip().endswith(("):", "series:"))
    ]
    found: dict[str, Any] = yaml.safe_load("models:\n" + "\n".join(lines))["models"]
    return found


def all_models(folder: Path) -> dict[str, tuple[SegmentSpec, ...]]:
    shown = load_settings(REPOSITORY / "config.yaml").models
    path = folder / "config.yaml"
    body = {**{f"shown_{name}": item for name, item in commented_models().items()}, **real_models()}
    path.write_text(yaml.safe_dump({"default_model": "brats", "models": body}), encoding="utf-8")
    models = {**shown, **load_settings(path).models}
    return {name: model.segments for name, model in models.items()}


@pytest.mark.dicom_validators
def test_dciodvfy_finds_no_error_with_the_codes_of_any_model(tmp_path: Path) -> None:
    models = all_models(tmp_path)
    assert {"demo_brain_tumor", "brats", "mindgrab", "gwm_light", "shown_brats"} <= set(models)
    for name, specs in models.items():
        array = truth(replace(OBLIQUE, shape=(24, 20, 14)))
        values = np.array([0, *(spec.label_value for spec in specs), 0, 0, 0, 0])
        labels = Labels(
            array=values[array].astype(np.uint8),
            values=tuple(spec.label_value for spec in specs),
        )
        phantom = Phantom(grid=replace(OBLIQUE, shape=(24, 20, 14)))
        path = write_mask(tmp_path / name, phantom, labels, specs, "binary")
        run = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
        text = (run.stdout + run.stderr).decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if re.match("Error|Warning", line)]
        assert lines == [], name
