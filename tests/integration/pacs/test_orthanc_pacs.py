from __future__ import annotations

import pytest

from django_queue_app.pacs.connection import Connection
from django_queue_app.pacs.orthanc import OrthancPacs
from tests.contracts.pacs_contract import PacsContract
from tests.support.orthanc_server import PASSWORD, USER, OrthancServer

pytestmark = [pytest.mark.orthanc]


@pytest.fixture
def pacs(orthanc: OrthancServer) -> OrthancPacs:
    return OrthancPacs(Connection(url=orthanc.url, user=USER, password=PASSWORD))


class TestOrthancPacs(PacsContract):
    pass
