"""Reads the site's own database and files after a chaos run; prints one JSON line per request."""

from __future__ import annotations

import hashlib
import io
import json

import django


def main() -> None:
    django.setup()
    from django_queue_app.models import SegmentationRequest

    for request in SegmentationRequest.objects.order_by("created_at"):
        print(json.dumps(told(request)))


def told(request) -> dict[str, object]:
    attempts = list(request.attempts.values_list("outcome", flat=True))
    return {
        "id": str(request.pk),
        "status": request.status,
        "runs": len(attempts),
        "accepted": attempts.count("completed"),
        "completions": became_completed(request),
        "failure": request.failure_code,
        "wrong_files": wrong_files(request),
    }


def became_completed(request) -> int:
    """Count the changes into completed, not the later events, such as that of its storage."""
    return request.events.filter(to_status="completed").exclude(from_status="completed").count()


def wrong_files(request) -> list[str]:
    """Name each visible artifact whose bytes are not those that its digest says."""
    from django_queue_app.artifact_files import read_file

    if request.status != "completed":
        return []
    artifacts = {one.name: one for one in request.visible_artifacts()}
    missing = {"mask.dcm", "mask.nii.gz", "preview.png", "report.json"} - set(artifacts)
    wrong = [
        name
        for name, one in artifacts.items()
        if hashlib.sha256(read_file(one.storage_name)).hexdigest() != one.sha256
    ]
    if "mask.dcm" in artifacts and not is_patients(
        read_file(artifacts["mask.dcm"].served_storage_name)
    ):
        wrong.append("mask.dcm of another patient")
    return sorted(missing) + wrong


def is_patients(data: bytes) -> bool:
    import pydicom

    mask = pydicom.dcmread(io.BytesIO(data))
    return mask.Modality == "SEG" and str(mask.PatientName) == "Phantom^Api"


if __name__ == "__main__":
    main()
