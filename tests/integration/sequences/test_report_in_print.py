import base64
import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from worker.adapters.report_page import page_of, write_report_page

MODEL = {"name": "brats", "version": "1.0", "sha256": "0123456789abcdef" * 4}
CODE = {"value": "108369006", "scheme": "SCT", "meaning": "Neoplasm"}


def report_of_four_inputs() -> dict[str, Any]:
    """A report as full as usual ones are: four series, three segments, four warnings."""
    labels = ("Necrotic core", "Edema", "Enhancing tumor")
    return {
        "request_id": "0f0e0d0c-0b0a-4000-8000-000000000000",
        "intended_use": "Research only: never seen a patient's image. " * 3,
        "result": {
            "tumor_detected": True,
            "tumor_volume_voxels": 39901,
            "tumor_volume_ml": 137.2,
            "segments": [
                {"number": number, "voxels": 10_000, "volume_ml": 34.4}
                for number in range(1, len(labels) + 1)
            ],
            "total_slices": 52,
            "start_slice_index": 22,
            "end_slice_index": 47,
            "elapsed_time_seconds": 12.3,
            "model": MODEL,
            "sop_instance_uid": "1.2.826.0.1.3680043.8.498." + "1" * 38,
            "warnings": [
                f"Series {n} (T1) lies on another grid and was resampled to the main series."
                for n in range(4)
            ],
            "timings": dict.fromkeys(("read", "decode", "resample", "infer", "seg"), 1.0),
        },
        "segments": [
            {"label": label, "label_ko": "종양", "type": CODE, "color_rgb": [200, 60, 60]}
            | {"counts_as_tumor": True}
            for label in labels
        ],
        "order": {"asked": "auto"},
        "inputs": [
            {
                "channel": name,
                "is_main": name == "T1c",
                "sequence": {"guess": name, "confidence": 0.9},
                "shape": [256, 256, 134],
                "spacing_mm": [0.94, 0.94, 1.2],
                "is_resampled": True,
                "registration": None,
            }
            for name in ("T1c", "T1", "T2", "FLAIR")
        ],
        "postprocessing": {"steps": [{"name": "fill_holes"}]},
        "device": "cuda:0",
        "software": {f"library-{number}": "1.2.3" for number in range(9)},
    }


@pytest.mark.chromium
def test_the_page_prints_on_one_sheet(tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    picture = io.BytesIO()
    Image.new("RGB", (1128, 590), (40, 40, 60)).save(picture, format="PNG")
    page, sheet = tmp_path / "report.html", tmp_path / "report.pdf"
    write_report_page(page, report_of_four_inputs(), picture=picture.getvalue())
    assert base64.b64encode(picture.getvalue()).decode() in page.read_text(encoding="utf-8")
    subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--no-pdf-header-footer",
            f"--print-to-pdf={sheet}",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert re.findall(rb"/Count (\d+)", sheet.read_bytes()) == [b"1"]


def test_numbers_and_plurals_are_right_in_both_languages() -> None:
    report = report_of_four_inputs()
    text = page_of(report, "")
    assert "39,901 voxels · slices 23 to 48 of 52" in text
    assert "39,901복셀 · 슬라이스 52장 중 23~48번" in text
    assert "시리즈 2(T1): 격자가 달라 주 시리즈의 격자로 재표본화했습니다." in text
    report["result"] |= {"tumor_volume_voxels": 1, "tumor_volume_ml": 1607.27}
    report["result"] |= {"start_slice_index": 2, "end_slice_index": 2}
    text = page_of(report, "")
    assert "1 voxel · slice 3 of 52" in text
    assert "1복셀 · 슬라이스 52장 중 3번" in text
    assert "1,607.27 mL" in text
