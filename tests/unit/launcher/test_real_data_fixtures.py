from pathlib import Path

import pytest

pytestmark = pytest.mark.real_data


def test_archives_unpack_to_the_documented_number_of_slices(
    t1_series_dir: Path, breast_series_dirs: list[Path], vendor_dir: Path
) -> None:
    assert len(list(t1_series_dir.glob("*.dcm"))) == 256
    assert [len(list(path.glob("*.dcm"))) for path in breast_series_dirs] == [134] * 4
    assert (vendor_dir / "siemens_mosaic").is_dir()
