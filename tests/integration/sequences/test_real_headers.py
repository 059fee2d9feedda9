"""Headers of real examinations beside the project."""

from pathlib import Path

import pydicom
import pytest

from tests.support.real_data import *  # noqa: F403 - the fixtures
from worker.adapters.dicom_read import list_files
from worker.adapters.sequence_header import read_sequence_header
from worker.core.channels import contradictions, sort_series
from worker.core.sequences import SequenceHeader, recognise

pytestmark = pytest.mark.real_data

PHASES = ("DCE phase 1", "DCE phase 2", "DCE phase 3", "DCE phase 4")


def header_of(folder: Path) -> SequenceHeader:
    first = list_files(folder)[0]
    return read_sequence_header([pydicom.dcmread(first, stop_before_pixels=True)])


def test_a_real_t1_is_recognised(t1_series_dir: Path) -> None:
    guess = recognise(header_of(t1_series_dir))
    assert (guess.sequence, guess.confidence) == ("T1", 0.9)


def test_phases_without_any_time_are_sorted_by_number_where_descriptions_agree(
    breast_series_dirs: list[Path],
) -> None:
    one, two, three, four = (header_of(folder) for folder in breast_series_dirs)
    assert contradictions([one, two, three, four], PHASES) == ()
    assert len(contradictions([two, one, three, four], PHASES)) == 1
    assert sort_series([four, two, one, three], PHASES).indices == (2, 1, 3, 0)
