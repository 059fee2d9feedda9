"""Short ways past pydicom, held against what pydicom itself makes of the same bytes."""

from __future__ import annotations

import gc
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from tests.support.dicom_phantoms import AXIAL, Phantom, paint, write_series
from worker.adapters import dicom_bytes, memory
from worker.adapters.dicom_pixels import iter_frames
from worker.adapters.dicom_quiet import without_quotes
from worker.adapters.dicom_read import read_series
from worker.adapters.dicom_values import COLUMNS, NUMBER_OF_FRAMES, ROWS, frame_count, number
from worker.core.errors import SeriesInvalid

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)


def image(syntax: str = ExplicitVRLittleEndian, **elements: Any) -> Dataset:
    """Write a small image, and read it as a file is read."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    dataset.SOPInstanceUID = "1.2.3"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = 3, 5
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    written = BytesIO()
    dataset.save_as(written, enforce_file_format=True)
    return pydicom.dcmread(BytesIO(written.getvalue()))


@given(st.data(), st.sampled_from(SYNTAXES), st.sampled_from([8, 16, 32]), st.integers(0, 1))
def test_uncompressed_frames_are_those_of_pydicom(
    data: st.DataObject, syntax: str, allocated: int, sign: int
) -> None:
    """Random bits, also above the stored ones, where overlays lie."""
    stored = data.draw(st.integers(1, allocated))
    frames = data.draw(st.integers(1, 3))
    size = frames * 3 * 5 * allocated // 8
    pixels = data.draw(st.binary(min_size=size, max_size=size))
    dataset = image(
        syntax,
        NumberOfFrames=str(frames),
        BitsAllocated=allocated,
        BitsStored=stored,
        HighBit=stored - 1,
        PixelRepresentation=sign,
        PixelData=pixels + b"\0" * (size % 2),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
        expected = [frame for frame, _ in decoder.iter_array(dataset, raw=True)]
    found = list(iter_frames(dataset, "an image"))
    assert len(found) == frames
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype.kind == other.dtype.kind


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_whole_numbers_are_read_as_pydicom_reads_them(syntax: str) -> None:
    dataset = image(syntax, Columns=517)
    assert number(dataset, COLUMNS) == 517  # from its two bytes
    assert dataset.Columns == 517  # pydicom keeps its own value from here on
    assert number(dataset, COLUMNS) == 517


def test_what_is_absent_or_empty_is_no_number() -> None:
    assert number(image(), NUMBER_OF_FRAMES) is None
    assert number(image(Rows=None), ROWS) is None
    assert frame_count(image()) == 1
    assert frame_count(image(NumberOfFrames="7")) == 7


@pytest.mark.parametrize("at_once", [0, 2**24])
def test_a_large_file_is_read_in_parts_with_the_same_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(dicom_bytes, "AT_ONCE_BYTES", at_once)
    for syntax in (ExplicitVRLittleEndian, RLELossless):
        files = write_series(tmp_path / syntax, Phantom(transfer_syntax=syntax))
        np.testing.assert_array_equal(read_series(files).array, paint(AXIAL))
        files[3].write_bytes(files[3].read_bytes()[:-1])
        with pytest.raises(SeriesInvalid) as refused:
            read_series(files)
        assert refused.value.code == "truncated"


def test_silence_ends_with_the_outermost_reading() -> None:
    with without_quotes():
        with without_quotes():
            pass
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("ignore")
            warnings.warn("Hong^Gildong", UserWarning, stacklevel=1)
        assert not heard
    with pytest.warns(UserWarning, match="of our own tests"):
        warnings.warn("of our own tests", UserWarning, stacklevel=1)


def test_the_collector_runs_again_afterwards() -> None:
    assert gc.isenabled()
    with pytest.raises(ValueError, match="in the middle"):
        _fail_with_the_collector_paused()
    assert gc.isenabled()


def _fail_with_the_collector_paused() -> None:
    with memory.collector_paused():
        with memory.collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ValueError("in the middle")
