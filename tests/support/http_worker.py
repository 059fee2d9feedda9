"""A worker of ours reduced to its calls: it draws a box where a network would look for a tumour.

Written from CONTRACT 2.2; it shares no code with the worker program, so that the site is tested
against the wording and not against its own client.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import struct
import zlib
from typing import Any
from uuid import uuid4

import highdicom as hd
import httpx
import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid


class HttpWorker:
    """One worker and its claims.

    Parameters
    ----------
    client : httpx.Client
        With `/api/mri/segmentation` as its base and the worker's credentials.
    """

    def __init__(self, client: httpx.Client, *, name: str = "pc-1") -> None:
        self.client = client
        self.about = {"name": name, "version": "1.0", "device": "cpu", "models": ["demo"]}

    def claim(self, *, key: str | None = None, wait_s: int = 0) -> httpx.Response:
        """Ask for work."""
        return self.client.post(
            "/pending-requests/claim/",
            json={"worker": self.about},
            headers={"Idempotency-Key": key or str(uuid4()), "Prefer": f"wait={wait_s}"},
        )

    def serve(self, job: dict[str, Any]) -> httpx.Response:
        """Fetch, "segment", upload and complete one job."""
        files, result = self.segment(job)
        for name, data in files.items():
            self.upload(job, name, data).raise_for_status()
        return self.complete(job, files, result)

    def fetch(self, job: dict[str, Any]) -> list[bytes]:
        """Download the main series and check every digest of the manifest."""
        series = next(s for s in job["manifest"] if s["series_id"] == job["main_series_id"])
        fetched = []
        for item in series["instances"]:
            answer = self.client.get(f"/requests/{job['request_id']}/instances/{item['id']}")
            answer.raise_for_status()
            assert hashlib.sha256(answer.content).hexdigest() == item["sha256"]
            fetched.append(answer.content)
        return fetched

    def segment(self, job: dict[str, Any]) -> tuple[dict[str, bytes], dict[str, Any]]:
        """Make the four files and the result."""
        sources = [pydicom.dcmread(io.BytesIO(data)) for data in self.fetch(job)]
        mask = self.draw(sources)
        voxels = int(mask.sum())
        filled = np.flatnonzero(mask.any(axis=(1, 2))).tolist()
        result = {
            "tumor_detected": voxels > 0,
            "tumor_volume_voxels": voxels,
            "tumor_volume_ml": voxels / 1000,
            "segments": [
                {
                    "number": 1,
                    "label": "Box",
                    "code": {"value": "108369006", "scheme": "SCT", "meaning": "Neoplasm"},
                    "voxels": voxels,
                    "volume_ml": voxels / 1000,
                }
            ],
            "elapsed_time_seconds": 0.5,
            "total_slices": len(sources),
            "start_slice_index": filled[0] if filled else None,
            "end_slice_index": filled[-1] if filled else None,
            "model": {"name": "demo", "version": "1", "sha256": "0" * 64},
            "warnings": [],
            "timings": {"loading": 0.1},
        }
        files = {
            "mask.dcm": make_seg(sources, mask),
            "mask.nii.gz": self.draw_volume(sources),
            "preview.png": make_png(),
            "report.json": json.dumps({"result": result}).encode(),
            "report.html": b"<!doctype html><script>alert(document.cookie)</script>",
        }
        return files, result

    def draw(self, sources: list[pydicom.Dataset]) -> np.ndarray:
        """Draw the mask: (slices, rows, columns), in the order of the sources."""
        mask = np.zeros((len(sources), sources[0].Rows, sources[0].Columns), dtype=np.uint8)
        mask[1, 2:5, 3:7] = 1
        return mask

    def draw_volume(self, sources: list[pydicom.Dataset]) -> bytes:
        """Write the mask as NIfTI; here only what a glance takes for it."""
        return gzip.compress(struct.pack("<i", 348) + bytes(400))

    def beat(self, job: dict[str, Any], stage: str, progress: float) -> httpx.Response:
        """Say how far it has come."""
        return self.client.post(
            f"/requests/{job['request_id']}/heartbeat/",
            json={"stage": stage, "progress": progress},
            headers=lease_of(job),
        )

    def upload(self, job: dict[str, Any], name: str, data: bytes) -> httpx.Response:
        """Deliver one file."""
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        return self.client.put(
            f"/requests/{job['request_id']}/artifacts/{name}",
            content=data,
            headers={**lease_of(job), "Content-Digest": f"sha-256=:{digest}:"},
        )

    def complete(
        self, job: dict[str, Any], files: dict[str, bytes], result: dict[str, Any]
    ) -> httpx.Response:
        """Deliver the result."""
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        return self.client.post(
            f"/complete-request/{job['request_id']}/",
            json={"success": True, "result": result, "artifacts": digests},
            headers=lease_of(job),
        )

    def fail(
        self,
        job: dict[str, Any],
        *,
        code: str,
        message: str = "It could not be done.",
        retryable: bool = False,
    ) -> httpx.Response:
        """Say that it could not be done."""
        failure = {"code": code, "message": message, "retryable": retryable}
        return self.client.post(
            f"/complete-request/{job['request_id']}/",
            json={"success": False, "failure": failure},
            headers=lease_of(job),
        )


def lease_of(job: dict[str, Any]) -> dict[str, str]:
    """Give the header that carries a job's lease."""
    return {"If-Match": f'"{job["lease"]["id"]}"'}


def make_seg(sources: list[pydicom.Dataset], mask: np.ndarray) -> bytes:
    """Write a BINARY SEG with one segment over the source slices."""
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Box",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="box", version="1", family=codes.DCM.ArtificialIntelligence
        ),
    )
    seg = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=mask,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=generate_uid(),
        series_number=99,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=bool(mask.any()),
    )
    buffer = io.BytesIO()
    seg.save_as(buffer)
    return buffer.getvalue()


def make_png() -> bytes:
    """Write a picture of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\x00\x80")
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
