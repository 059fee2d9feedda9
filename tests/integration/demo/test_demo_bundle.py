import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from pydicom.sr.codedict import codes

from demo.phantom import LABEL_NAMES
from demo.phantom_dicom import MAIN
from demo.seeds import EVALUATION_SEEDS

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

BUNDLE = Path(__file__).parents[3] / "models" / "demo_brain_tumor"
LIMIT_BYTES = 2 * 1024 * 1024


@pytest.fixture(scope="module")
def unseen():
    """One phantom beyond those that the published figures are made of."""
    from demo.evaluate import scan_case

    return scan_case(EVALUATION_SEEDS[-1], lesions=1)


@pytest.fixture(scope="module")
def runner():
    from demo.evaluate import BundleRunner

    return BundleRunner(BUNDLE)


def test_bundle_is_small_and_whole():
    files = [p for p in BUNDLE.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= LIMIT_BYTES
    names = {str(p.relative_to(BUNDLE)) for p in files}
    assert names == {
        "LICENSE",
        "configs/inference.json",
        "configs/metadata.json",
        "docs/README.md",
        "docs/segments.yaml",
        "models/model.pt",
        *(f"sample/{channel}.nii.gz" for channel in ("T1c", "T1", "T2", "FLAIR")),
    }


def test_bundle_says_that_it_is_a_demonstration():
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
    for text in (
        metadata["intended_use"],
        metadata["description"],
        (BUNDLE / "docs" / "README.md").read_text(encoding="utf-8"),
    ):
        assert "synthetic phantoms" in text
        assert "not for clinical use" in text.lower()
    channels = metadata["network_data_format"]["inputs"]["image"]["channel_def"]
    assert channels == {"0": "T1c", "1": "T1", "2": "T2", "3": "FLAIR"}
    assert min(metadata["eval_metrics"].values()) >= 0.90


def test_every_label_has_a_code_of_the_standard():
    text = (BUNDLE / "docs" / "segments.yaml").read_text(encoding="utf-8")
    segments = yaml.safe_load(text)
    assert set(segments) == set(LABEL_NAMES)
    lesion_types = [getattr(codes.cid7159, name) for name in codes.cid7159.dir()]
    known = {(c.value, c.scheme_designator, c.meaning) for c in lesion_types}
    for segment in segments.values():
        code = segment["type"]
        assert (code["value"], code["scheme"], code["meaning"]) in known
        assert segment["category"]["value"] == codes.SCT.MorphologicallyAbnormalStructure.value
        assert segment["anatomic_region"]["value"] == codes.SCT.Brain.value


@pytest.mark.slow
def test_bundle_finds_an_unseen_tumour_on_the_main_grid(runner, unseen):
    from demo.evaluate import PASSING_DICE, SCORED, dice

    channels, truth, _ = unseen
    found = runner.segment(channels, MAIN.grid.affine_ras)
    assert found.shape == MAIN.shape
    for name, values in SCORED.items():
        score = dice(np.isin(found, values), np.isin(truth, values))
        assert score >= PASSING_DICE - 0.05, name


@pytest.mark.slow
def test_bundle_finds_nothing_in_a_healthy_head(runner):
    from demo.evaluate import HEALTHY_LIMIT_ML, scan_case

    channels, truth, lesions = scan_case(EVALUATION_SEEDS[-2], lesions=0)
    assert lesions == 0
    assert not truth.any()
    found = runner.segment(channels, MAIN.grid.affine_ras)
    assert (found > 0).sum() * np.prod(MAIN.spacing_mm) / 1000 <= HEALTHY_LIMIT_ML


@pytest.mark.slow
def test_bundle_runs_unedited_under_monai_on_a_folder_of_nifti(runner, unseen, tmp_path):
    channels, _, _ = unseen
    case = tmp_path / "data" / "case1"
    case.mkdir(parents=True)
    for name, channel in zip(("T1c", "T1", "T2", "FLAIR"), channels, strict=True):
        nib.save(nib.Nifti1Image(channel, MAIN.grid.affine_ras), case / f"{name}.nii.gz")
    overrides = {
        "config_file": str(BUNDLE / "configs" / "inference.json"),
        "bundle_root": str(BUNDLE),
        "dataset_dir": str(tmp_path / "data"),
        "output_dir": str(tmp_path / "eval"),
    }
    # What `python -m monai.bundle run` calls; that command itself would need `fire` installed.
    program = f"from monai.bundle import run; run(**{overrides!r})"
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    (mask,) = (tmp_path / "eval").rglob("*.nii.gz")
    image = nib.load(mask)
    np.testing.assert_allclose(image.affine, MAIN.grid.affine_ras, atol=1e-3)
    # The file's own affine: NIfTI keeps single precision, and the 2 mm grid starts from it.
    ours = runner.segment(channels, image.affine)
    assert (np.asarray(image.dataobj) != ours).mean() < 1e-5
