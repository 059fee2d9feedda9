from __future__ import annotations

from pathlib import Path

import pytest

from worker.catalogue import describe_model, missing_codes
from worker.core.errors import ModelInvalid
from worker.plain_model import read_plain_model
from worker.settings_models import ModelSettings

GOOD = """
name: tumour net
version: 1.0
channels: [T1, T2]
output_channels: [background, lesion]
spacing_mm: [1, 1, 2.5]
orientation: lps
normalisation: percentiles
roi_size: [96, 96, 48]
overlap: 0
output: argmax
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "m.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_description_is_read_whole(tmp_path: Path) -> None:
    plain = read_plain_model(write(tmp_path, GOOD))
    assert plain.version == "1.0"
    assert plain.channels == ("T1", "T2")
    assert plain.spacing_mm == (1.0, 1.0, 2.5)
    assert plain.orientation == "LPS"
    assert plain.roi_size == (96, 96, 48)
    assert plain.overlap == 0.0


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    text = (
        "channels: T1\nspacing_mm: [1, 0, 1]\norientation: RLS\noutput: softmax\nroi: 3\n"
        "overlap: 1\nnormalisation: zscores\nroi_size: 96"
    )
    with pytest.raises(ModelInvalid) as error:
        read_plain_model(write(tmp_path, text))
    for part in (
        "version: missing",
        "channels: expected",
        "spacing_mm: expected three numbers > 0, got [1, 0, 1]",
        "orientation: expected",
        "output: expected argmax or sigmoid, got 'softmax'",
        "roi: unknown key",
        "overlap: expected",
        "normalisation: expected",
        "roi_size: expected",
    ):
        assert f"m.yaml: {part}" in error.value.message


def test_file_needs_a_yaml_of_its_name_beside_it(tmp_path: Path) -> None:
    (tmp_path / "m.ts").touch()
    settings = ModelSettings(name="m", path=tmp_path / "m.ts")
    with pytest.raises(ModelInvalid, match=r"\.yaml of the same name"):
        describe_model(settings)
    write(tmp_path, GOOD)
    entry = describe_model(settings)
    assert (entry.format, entry.channels) == ("torchscript", ("T1", "T2"))
    assert missing_codes(entry) == {1: "lesion"}


def test_yaml_is_part_of_what_is_pinned(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").touch()
    write(tmp_path, GOOD)
    settings = ModelSettings(name="m", path=tmp_path / "m.pt2")
    before = describe_model(settings)
    assert before.format == "export"
    write(tmp_path, GOOD.replace("argmax", "sigmoid"))
    assert describe_model(settings).sha256 != before.sha256
