"""An existing lab script, as it stood before this project: four calls, no lease, a stale list.

Written from CONTRACT 2.2 ("Existing workers") and from nothing of this project's code. It walks
the list that it was given without asking again, ignores a 409, fetches from and stores to the PACS
itself, and posts `success: false` when an answer is late. It is a program (`python -m
tests.support.existing_worker`) and, for the tests, a class whose steps can be taken one by one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import requests


@dataclass(frozen=True, kw_only=True)
class StoredMask:
    """What the script made and stored in the PACS by its own means."""

    seg_instance_id: str
    voxels: int


Segment = Callable[[dict[str, Any]], StoredMask]


class ExistingWorker:
    """The loop of the old script, cut into its calls.

    Parameters
    ----------
    base_url : str
        Of the site, without a trailing slash.
    credentials : tuple of str
        `(name, token)`, sent as HTTP Basic, as `DJANGO_API_AUTH` held them.
    segment : callable
        Takes one item of the list, stores a mask in the PACS, gives its Orthanc id.
    """

    def __init__(self, base_url: str, credentials: tuple[str, str], segment: Segment) -> None:
        self._api = f"{base_url}/api/mri/segmentation"
        self._session = requests.Session()
        self._session.auth = credentials
        self._segment = segment

    def pending(self) -> list[dict[str, Any]]:
        """Fetch the list."""
        answer = self._session.get(f"{self._api}/pending-requests/", timeout=10)
        answer.raise_for_status()
        items: list[dict[str, Any]] = answer.json()["requests"]
        return items

    def start(self, request_id: str) -> int:
        """Say that it was taken; the old script looks at nothing but exceptions."""
        started = datetime.now(UTC).isoformat()
        answer = self._session.post(
            f"{self._api}/update-status/{request_id}/",
            json={"status": "processing", "started_at": started},
            timeout=10,
        )
        return answer.status_code

    def finish(self, request_id: str, body: dict[str, Any]) -> requests.Response:
        """Post what came out of it."""
        return self._session.post(
            f"{self._api}/complete-request/{request_id}/", json=body, timeout=10
        )

    def serve(self, item: dict[str, Any]) -> requests.Response:
        """Take, segment and finish one item of the list."""
        started = time.monotonic()
        self.start(item["request_id"])
        try:
            mask = self._segment(item)
        except Exception as error:  # the old script catches everything
            return self.finish(item["request_id"], {"success": False, "error": str(error)})
        return self.finish(
            item["request_id"],
            {
                "success": True,
                "seg_instance_id": mask.seg_instance_id,
                "tumor_detected": mask.voxels > 0,
                "tumor_volume_voxels": mask.voxels,
                "elapsed_time_seconds": time.monotonic() - started,
                "error": None,
            },
        )

    def run_once(self) -> int:
        """Walk one list to its end; give how many it finished."""
        items = self.pending()
        for item in items:
            self.serve(item)
        return len(items)


def main() -> None:
    """Poll every 30 s with a PACS that already holds the mask named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("base_url")
    parser.add_argument("auth", help="name:token")
    parser.add_argument("seg_instance_id", help="what the PACS holds as the mask")
    parser.add_argument("--once", action="store_true")
    arguments = parser.parse_args()
    name, _, token = arguments.auth.partition(":")
    mask = StoredMask(seg_instance_id=arguments.seg_instance_id, voxels=1)
    worker = ExistingWorker(arguments.base_url, (name, token), lambda item: mask)
    while True:
        print(f"finished {worker.run_once()} requests", flush=True)
        if arguments.once:
            return
        time.sleep(30)


if __name__ == "__main__":
    main()
