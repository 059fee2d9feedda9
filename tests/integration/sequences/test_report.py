"""The report of a case: what a program reads, what a person files, and that both say the truth."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import highdicom as hd
import jsonschema
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.support.dicom_phantoms import CORE as CORE_VALUE
from tests.support.dicom_phantoms import GRIDS, OBLIQUE, Grid, Phantom, paint, write_series
from tests.support.dicom_phantoms import LESION as LESION_VALUE
from tests.support.imaging_models import CORE, LESION, model_entry
from tests.support.threshold_engine import ThresholdEngine
from worker.core.job import Case, CaseResult, SeriesFiles
from worker.core.postprocess import Postprocess
from worker.core.segments import SegmentSpec
from worker.pipeline import segment_case

SCHEMA = Path(__file__).resolve().parents[3] / "docs" / "report.schema.json"
CLEAN = Postprocess(fill_holes=True, min_volume_ml=0.01, keep_largest="all")


def run(
    tmp_path: Path,
    *segments: SegmentSpec,
    grid: Grid = OBLIQUE,
    postprocess: Postprocess | None = None,
    thresholds: tuple[int, int] = (LESION_VALUE, CORE_VALUE),
    is_overlapping: bool = False,
) -> CaseResult:
    array = paint(grid)
    array[7, 6, 5] = 300  # a hole in the lesion
    array[18, 14, 11] = LESION_VALUE  # a speck away from it
    files = write_series(tmp_path / "in", Phantom(grid=grid, order="shuffled"), array=array)
    return segment_case(
        Case(
            request_id="r1",
            series=(SeriesFiles(series_id="s0", files=files),),
            main_series_id="s0",
            model="phantom_model",
            output_dir=tmp_path / "out",
        ),
        model=replace(
            model_entry(*segments, intended_use="Tests & <b>nothing</b> else"),
            postprocess=postprocess or Postprocess(),
        ),
        engine=ThresholdEngine(thresholds, is_overlapping=is_overlapping),
        on_progress=lambda _stage, _fraction: None,
    )


def report_of(tmp_path: Path) -> dict:
    return dict(json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")))


def page_of(tmp_path: Path) -> str:
    return (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("postprocess", [Postprocess(), CLEAN], ids=["plain", "postprocessed"])
@pytest.mark.parametrize("is_overlapping", [False, True], ids=["label map", "overlapping"])
def test_the_report_keeps_its_schema(
    tmp_path: Path, postprocess: Postprocess, is_overlapping: bool
) -> None:
    run(tmp_path, postprocess=postprocess, is_overlapping=is_overlapping)
    jsonschema.validate(report_of(tmp_path), json.loads(SCHEMA.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("postprocess", [Postprocess(), CLEAN], ids=["plain", "postprocessed"])
def test_volumes_are_what_one_counts_in_the_downloads(
    tmp_path: Path, name: str, postprocess: Postprocess
) -> None:
    result = run(tmp_path, grid=GRIDS[name], postprocess=postprocess)
    image = nib.load(tmp_path / "out" / "mask.nii.gz")
    found = np.asarray(image.dataobj)
    voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    seg = hd.seg.segread(tmp_path / "out" / "mask.dcm")
    volume = seg.get_volume(combine_segments=True)
    seg_voxel_ml = float(np.prod(volume.spacing)) / 1000
    for item, label_value in zip(result.segments, (2, 5), strict=True):
        in_nifti = int((found == label_value).sum())
        in_seg = int((volume.array == item.number).sum())
        assert item.voxels == in_nifti == in_seg > 0
        assert item.volume_ml == pytest.approx(in_nifti * voxel_ml, rel=1e-5)
        assert item.volume_ml == pytest.approx(in_seg * seg_voxel_ml, rel=1e-5)
    assert result.tumor_volume_voxels == int((found > 0).sum())


def test_every_step_on_the_label_map_is_reported(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain")
    clean = run(tmp_path / "clean", postprocess=CLEAN)
    assert clean.tumor_volume_voxels == plain.tumor_volume_voxels + 1 - 1
    told = report_of(tmp_path / "clean")["postprocessing"]
    assert told["settings"]["keep_largest"] == "all"
    assert [
        (step["name"], step["voxels_added"], step["voxels_removed"]) for step in told["steps"]
    ] == [
        ("fill_holes", {"2": 1}, {}),
        ("min_volume_ml", {}, {"2": 1}),
        ("keep_largest", {}, {}),
    ]
    assert "Postprocessing took out 1 voxels and added 1" in clean.warnings[-1]
    assert report_of(tmp_path / "plain")["postprocessing"]["steps"] == []
    # Another mask of the same request and inputs is another object.
    assert clean.sop_instance_uid != plain.sop_instance_uid


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_is_one_file_that_runs_and_fetches_nothing(tmp_path: Path) -> None:
    hostile = replace(LESION, label='<script>alert("x")</script>', label_ko="병변 & 코어")
    run(tmp_path, hostile, CORE)
    page = page_of(tmp_path)
    parser = _Tags()
    parser.feed(page)
    names = {tag for tag, _ in parser.tags}
    assert not names & {"script", "link", "iframe", "object", "form", "a", "b"}
    assert not [key for _, attrs in parser.tags for key in attrs if key.startswith("on")]
    sources = [attrs["src"] or "" for _, attrs in parser.tags if "src" in attrs]
    assert [source[:22] for source in sources] == ["data:image/png;base64,"]
    assert not re.search(r"https?://|url\(|@import", page)
    (policy,) = (attrs["content"] for _, attrs in parser.tags if attrs.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in page
    assert "Tests &amp; &lt;b&gt;nothing&lt;/b&gt; else" in page
    with Image.open(io.BytesIO(base64.b64decode(sources[0][22:]))) as picture:
        assert picture.width == 1128


def test_the_page_says_what_the_report_says_and_names_no_patient(tmp_path: Path) -> None:
    result = run(tmp_path)
    page = page_of(tmp_path)
    for text in (
        "Research use only",
        "연구용으로만 사용",
        "Patient: see PACS",
        "병변",
        f"{result.tumor_volume_ml:.2f} mL",
        f"{result.segments[0].voxels:,}",
        result.model.sha256,
        result.sop_instance_uid,
        "Lesion found",
    ):
        assert text in page
    for secret in ("Phantom^", "PHANTOM-1", "Secret", "SECRET", "19700101"):
        assert secret not in page


def test_an_empty_mask_says_so_on_the_page(tmp_path: Path) -> None:
    run(tmp_path, thresholds=(5000, 6000))
    assert "No lesion found" in page_of(tmp_path)
    with Image.open(tmp_path / "out" / "preview.png") as picture:
        assert picture.width == 1128


def test_anatomy_without_a_lesion_is_not_called_one(tmp_path: Path) -> None:
    tissue = [replace(spec, counts_as_tumor=False) for spec in (LESION, CORE)]
    run(tmp_path, *tissue)
    page = page_of(tmp_path)
    assert "Anatomy segmented" in page
    assert "esion found" not in page
