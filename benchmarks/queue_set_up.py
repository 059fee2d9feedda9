"""Fill an empty site: tables, a user's token, workers' tokens, four small series, their masks.

    python -m benchmarks.queue_set_up --workers 64

Prints the secrets and the masks as JSON. A mask's own UID is `TEMPLATE_UID`, so that each run can
put another of the same length there without the cost of writing a SEG.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from typing import Any

import django
import numpy as np

TEMPLATE_UID = "2.25." + "1" * 38
LARGE = 240
SLICES_AT_ONCE = 17  # of LARGE x LARGE: 2 MB
UIDS = ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
SEQUENCES = ("t1", "flair", "t2", "t1c")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    django.setup()

    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    from django_queue_app import tokens

    call_command("migrate", verbosity=0)
    user = get_user_model().objects.create_user("doctor")
    names = [f"pc-{number}" for number in range(options.workers)]
    told: dict[str, Any] = {
        "user": tokens.create(name="page", kind="user", user=user)[1],
        "workers": [tokens.create(name=one, kind="worker", lane="lab")[1] for one in names],
        "large": _large_series(),
        "masks": dict(_series_with_mask(sequence) for sequence in SEQUENCES),
    }
    print(json.dumps(told))


def _series_with_mask(sequence: str) -> tuple[str, str]:
    import pydicom

    from django_queue_app import served
    from django_queue_app.pacs import get_pacs
    from tests.support.http_worker import make_seg
    from tests.support.small_series import mr_series

    pacs = get_pacs()
    stored = [pacs.store_instance(data) for data in mr_series(description=sequence)]
    series_id = stored[0].series_id
    instances = pacs.describe_series(series_id).instances
    sources = [pydicom.dcmread(io.BytesIO(served.read_served(one.id).data)) for one in instances]
    mask = np.zeros((len(sources), sources[0].Rows, sources[0].Columns), dtype=np.uint8)
    mask[1, 2:5, 3:7] = 1
    seg = pydicom.dcmread(io.BytesIO(make_seg(sources, mask)))
    seg.SOPInstanceUID = seg.file_meta.MediaStorageSOPInstanceUID = TEMPLATE_UID
    buffer = io.BytesIO()
    seg.save_as(buffer)
    return series_id, base64.b64encode(buffer.getvalue()).decode()


def _large_series() -> str:
    """Store a brain's slices, as many as a worker asks for at once; return their series' id."""
    from django_queue_app.pacs import get_pacs
    from tests.support.small_series import mr_instance

    pixels = np.random.default_rng(1).integers(0, 4096, LARGE * LARGE, dtype="<u2").tobytes()
    uids = {name: _new_uid() for name in UIDS}
    values = {"Modality": "MR", "Rows": LARGE, "Columns": LARGE, "PixelData": pixels, **uids}
    stored = [
        get_pacs().store_instance(mr_instance(index, **values)) for index in range(SLICES_AT_ONCE)
    ]
    return str(stored[0].series_id)


def _new_uid() -> str:
    from pydicom.uid import generate_uid

    return str(generate_uid())


if __name__ == "__main__":
    main()
