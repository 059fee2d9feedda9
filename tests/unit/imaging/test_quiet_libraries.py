import logging
import subprocess
import sys
import warnings

import pytest

from worker.adapters.dicom_quiet import without_quotes


def test_what_a_dicom_library_says_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with without_quotes():
        logging.getLogger("pydicom").warning("Invalid value: 'Hong^Gildong'")
        warnings.warn("Invalid value: 'Hong^Gildong'", UserWarning, stacklevel=1)
    assert caplog.text == ""


def test_libraries_speak_again_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "pydicom")  # the site, loaded by another test, silences it
    with without_quotes():
        pass
    logging.getLogger("pydicom").warning("of our own tests")
    assert "of our own tests" in caplog.text


def test_pipeline_loads_without_torch_and_simpleitk() -> None:
    code = (
        "import sys, worker.pipeline; print(*({'torch', 'monai', 'SimpleITK'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
