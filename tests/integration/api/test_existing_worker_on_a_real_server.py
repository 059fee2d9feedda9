"""An unmodified existing worker's script and a worker of ours take turns on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest

from tests.support.existing_worker import ExistingWorker, StoredMask
from tests.support.http_worker import HttpWorker, make_seg
from tests.support.live_site import LiveSite


@pytest.fixture
def user(live: LiveSite) -> Iterator[httpx.Client]:
    with live.client() as client:
        yield client


class OldLab:
    """What the old script does by itself: it fetches from and stores to the PACS."""

    def __init__(self, live: LiveSite, user: httpx.Client) -> None:
        self.live, self.user = live, user

    def segment(self, item: dict[str, Any]) -> StoredMask:
        name = next(k for k, v in self.live.series.items() if v == item["main_series_id"])
        folder = self.live.data_dir.parent / "dicom" / name
        sources = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
        mask = np.zeros((len(sources), sources[0].Rows, sources[0].Columns), dtype=np.uint8)
        mask[0, 1:3, 1:3] = 1
        stored = self.user.post(
            f"{self.live.url}/api/mri/dicom/",
            content=make_seg(sources, mask),
            headers={"Content-Type": "application/dicom"},
        )
        assert stored.status_code == 201, stored.text
        return StoredMask(seg_instance_id=stored.json()["instance_ids"][0], voxels=4)


def test_an_existing_worker_and_ours_take_turns(live: LiveSite, user: httpx.Client) -> None:
    old_lab = OldLab(live, user)
    existing = ExistingWorker(live.url, ("lab", live.secrets["lab"]), old_lab.segment)
    filed = []
    with live.client("lab") as client:
        ours = HttpWorker(client)
        for turn in range(4):
            answer = user.post(f"/series/{live.series['t1']}/request-local/", json={"force": True})
            filed.append(answer.json()["request_id"])
            if turn % 2:
                ours.serve(ours.claim(wait_s=5).json()).raise_for_status()
            else:
                assert existing.run_once() == 1
    for turn, request_id in enumerate(filed):
        status = user.get(f"/status/{request_id}/").json()
        assert status["status"] == "completed"
        assert status["result"]["saved_to_orthanc"] is True
        assert status["result"]["tumor_volume_voxels"] == (12 if turn % 2 else 4)
        frames = user.get(f"/instances/{status['seg_instance_id']}/frames/").json()
        assert frames["num_frames"] == 3
        assert user.get(f"/requests/{request_id}/mask.dcm").content[128:132] == b"DICM"


def test_an_existing_worker_with_nothing_to_do_is_told_so(live: LiveSite) -> None:
    existing = ExistingWorker(live.url, ("lab", live.secrets["lab"]), lambda item: None)
    assert existing.run_once() == 0
