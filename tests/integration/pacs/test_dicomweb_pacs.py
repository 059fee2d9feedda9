from __future__ import annotations

import pytest

from django_queue_app.pacs.connection import Connection
from django_queue_app.pacs.dicomweb import DicomWebPacs
from tests.contracts.pacs_contract import PacsContract
from tests.support.orthanc_server import PASSWORD, USER, OrthancServer

pytestmark = [pytest.mark.orthanc, pytest.mark.django_db]


@pytest.fixture
def pacs(orthanc: OrthancServer) -> DicomWebPacs:
    return DicomWebPacs(Connection(url=orthanc.dicomweb_url, user=USER, password=PASSWORD))


class TestDicomWebPacs(PacsContract):
    pass
