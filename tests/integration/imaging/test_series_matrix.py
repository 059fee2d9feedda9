"""Every row of the matrix through the reader, and a part of it through the command line."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.series_matrix import READ, REFUSED, Row
from worker.adapters import memory
from worker.adapters.dicom_read import list_files, open_series, read_series
from worker.core.errors import SeriesInvalid

# Small pictures, so what a row takes beyond this is a bound that does not hold. 200 MiB is what
# one deflated file may grow to, held twice by pydicom.
MOST_MEMORY_BYTES = 256 << 20
BOMB_MEMORY_BYTES = 2 << 30
MOST_SECONDS = 60
SECRETS = ("Phantom", "PHANTOM", "Secret", "SECRET", "19700101")


def rows(found: Sequence[Row]) -> list[Any]:
    """Mark the one row that dcmtk writes."""
    marks = {"JPEG lossless": pytest.mark.dicom_validators}
    return [pytest.param(row, id=row.name, marks=marks.get(row.name, ())) for row in found]


@pytest.mark.parametrize("row", rows(READ))
def test_unusual_series_is_read_rightly(tmp_path: Path, row: Row) -> None:
    truth = row.make(tmp_path)
    assert truth is not None
    opened = open_series(list_files(tmp_path))
    assert len(opened.notes) == truth.notes
    volume = read_series(list_files(tmp_path))
    np.testing.assert_allclose(volume.array, truth.array, rtol=1e-6)
    last = [size - 1 for size in truth.grid.shape]
    for index in ([0, 0, 0], [last[0], 0, 0], [0, last[1], 0], last):
        np.testing.assert_allclose(
            volume.geometry.to_lps(index), truth.grid.world(*index), atol=1e-6
        )


@pytest.mark.parametrize("row", rows(REFUSED))
def test_bad_series_is_refused_with_its_code_and_a_remedy(tmp_path: Path, row: Row) -> None:
    row.make(tmp_path)
    memory.reset_peak()
    before, started = memory.peak_bytes(), time.monotonic()
    with pytest.raises(SeriesInvalid) as refused:
        read_series(list_files(tmp_path))
    taken, seconds = memory.peak_bytes() - before, time.monotonic() - started
    message = refused.value.message
    assert refused.value.code == row.code
    assert ";" in message  # what is wrong; what to do
    assert message.endswith(".")
    if row.names_instance:
        assert re.search(
            r"nstance number \d+ \(SOP Instance UID|[Ff]ile \d+ of \d+|between ", message
        )
    assert not [secret for secret in SECRETS if secret in message]
    assert taken < (BOMB_MEMORY_BYTES if "grow together" in row.name else MOST_MEMORY_BYTES)
    assert seconds < MOST_SECONDS
