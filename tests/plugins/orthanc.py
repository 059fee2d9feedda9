"""Fixtures of a real Orthanc: one for the whole run, emptied for each test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import orthanc_server
from tests.support.orthanc_server import OrthancServer


@pytest.fixture(scope="session")
def running_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    if not orthanc_server.is_installed():
        pytest.skip("needs Orthanc and its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb)")
    server = orthanc_server.start(tmp_path_factory.mktemp("orthanc"))
    yield server
    server.stop()


@pytest.fixture
def orthanc(running_orthanc: OrthancServer) -> OrthancServer:
    """Give an empty Orthanc."""
    running_orthanc.empty()
    return running_orthanc
