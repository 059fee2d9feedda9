"""Whatever is uploaded: a documented answer, in time, in bounded memory, and the site goes on.

A few examples in CI; `SEGMENTATION_FUZZ_EXAMPLES=20000` makes it a long run with examples of its
own.
"""

from __future__ import annotations

import io
import os
import sys
import time
import warnings
import zipfile
import zlib
from typing import Any

import pytest
from django.test import Client
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydicom.tag import Tag
from pydicom.uid import generate_uid

from tests.support.live_site import WORKER, new_key
from tests.support.small_series import mr_instance

pytestmark = pytest.mark.slow

API = "/api/mri/segmentation"
EXAMPLES = int(os.environ.get("SEGMENTATION_FUZZ_EXAMPLES", "0"))
# An upload of some kilobytes takes milliseconds; a hang is told from a slow machine.
MOST_SECONDS = 60.0
MOST_GROWTH_BYTES = 1 << 30
GOOD = {200, 201, 400, 413, 415, 422}

FUZZ = hypothesis_settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate] if not EXAMPLES else [Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

SEED = mr_instance(0, SeriesInstanceUID=generate_uid(entropy_srcs=["fuzz"]), StudyInstanceUID="1.2")
EXPLICIT, DEFLATED = b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.1.99"
# Keywords whose values the site reads, and values that have hurt readers.
KEYWORDS = [
    *("Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "SamplesPerPixel"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("PatientName", "PatientID", "StudyDate", "SeriesDescription", "Modality", "SeriesNumber"),
    *("SpecificCharacterSet", "RescaleSlope", "RescaleIntercept", "PhotometricInterpretation"),
    *("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "ImageType", "SOPClassUID"),
    *("WindowCenter", "WindowWidth", "RepetitionTime", "EchoTime", "InversionTime"),
]
NUMBERS = st.sampled_from(
    [0, 1, -1, 255, 65535, 2**31 - 1, float("nan"), float("inf"), 1e-300, 1e300]
) | st.floats(width=32)
RAW = st.one_of(
    st.binary(max_size=64),
    st.text(max_size=70).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from(
        [b"", b"\\", b"1\\2\\3", b"NaN\\NaN", b"1e999", b"0" * 300, b"\x1b$B!!", b"../x"]
    ),
    st.lists(NUMBERS, max_size=7).map(lambda some: "\\".join(map(repr, some)).encode()),
)


def element(keyword: str, value: bytes) -> tuple[int, bytes]:
    return int(Tag(keyword)), value


def encoded(changes: list[tuple[int, bytes]], depth: int, is_deflated: bool) -> bytes:
    """Write the seed with raw values put over its own, past every check of the library."""
    end = SEED.index(b"DICM") + 4
    head, body = SEED[:end], SEED[end:]
    length = int.from_bytes(body[8:12], "little")
    meta, rest = body[: 12 + length], body[12 + length :]
    for tag, value in changes:
        packed = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
        place = rest.find(packed)
        if place < 0 or rest[place + 4 : place + 6] in (b"OW", b"OB", b"SQ", b"UN"):
            continue
        old = int.from_bytes(rest[place + 6 : place + 8], "little")
        value += b" " * (len(value) % 2)
        rest = (
            rest[: place + 6] + len(value).to_bytes(2, "little") + value + rest[place + 8 + old :]
        )
    nested = nested_sequences(depth)
    if nested:
        place = rest.find(b"\xe0\x7f\x10\x00OW")
        rest = rest[:place] + nested + rest[place:]
    if is_deflated:
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        meta = meta[:8] + (length + 2).to_bytes(4, "little") + meta[12:]
        meta = meta.replace(b"\x14\x00" + EXPLICIT, b"\x16\x00" + DEFLATED)
        rest = packer.compress(rest) + packer.flush()
    return head + meta + rest


def nested_sequences(depth: int) -> bytes:
    """Undefined lengths all the way down."""
    opening = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    return opening * depth + closing * depth


INSTANCES = st.builds(
    encoded,
    st.lists(st.builds(element, st.sampled_from(KEYWORDS), RAW), max_size=6),
    st.sampled_from([0, 0, 0, 1, 50, 900, 20_000]),
    st.booleans(),
)
CUTS = st.lists(
    st.tuples(st.integers(0, 4_000), st.binary(max_size=9), st.integers(0, 9)), max_size=5
)


def damaged(data: bytes, cuts: list[tuple[int, bytes, int]]) -> bytes:
    """Overwrite, insert and cut."""
    for place, new, gone in cuts:
        place = min(place, len(data))
        data = data[:place] + new + data[place + gone :]
    return data


BODIES = st.builds(damaged, INSTANCES, CUTS) | st.binary(max_size=300)
NAMES = st.one_of(
    st.sampled_from(["../../x", "/etc/passwd", "C:\\x", "a/", "", "\u202e.dcm", "a\x00b"]),
    st.text(max_size=40),
    st.integers(1, 60_000).map(lambda length: "x" * length),
)
METHODS = st.sampled_from(
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
BOMBS = st.integers(0, 24).map(lambda power: SEED[:132] + bytes(1 << power))


def zipped(entries: list[tuple[str, bytes, int]], cuts: list[tuple[int, bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two entries of one name are meant
        for name, data, method in entries:
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode()[:60_000])
            archive.writestr(info, data, compress_type=method)
    data = buffer.getvalue()
    # The directory stands at the end: that is where a zip lies about itself.
    ends = [(max(0, len(data) - place % 200), new, gone) for place, new, gone in cuts]
    return damaged(data, ends)


ENTRIES = st.tuples(NAMES, BODIES | BOMBS, METHODS)
ZIPS = st.builds(zipped, st.lists(ENTRIES, max_size=5), CUTS)


def peak_bytes() -> int:
    if sys.platform == "win32":
        pytest.skip("reads the peak of the memory as POSIX gives it")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Uploads:
    """Uploads, and then uses what was taken as page and worker do."""

    def __init__(self, client: Client, site: Any) -> None:
        self._client = client
        self._site = site
        self.slowest_s = 0.0
        self.taken = 0

    def send(self, body: bytes, kind: str) -> None:
        began = time.monotonic()
        answer = self._client.post(
            "/api/mri/dicom/", body, content_type=kind, headers=self._site.as_user()
        )
        assert answer.status_code in GOOD, (answer.status_code, answer.content[:300])
        assert len(answer.content) < 1 << 20
        if answer.status_code in {200, 201}:
            self.taken += 1
            for series in answer.json()["series"]:
                self._use(series["id"])
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def _use(self, series_id: str) -> None:
        """List it, look at it, ask for a mask of it, fetch it as a worker does."""
        assert self._client.get(f"{API}/series/", headers=self._site.as_user()).status_code == 200
        self._client.force_login(self._site.user)
        for path in (
            "/",
            f"/viewer/series/{series_id}/",
            f"/viewer/series/{series_id}/slices/0.png",
        ):
            assert self._client.get(path).status_code < 500, path
        filed = self._client.post(
            f"{API}/series/{series_id}/request-local/",
            data={"force": True},
            content_type="application/json",
            headers=self._site.as_user(),
        )
        assert filed.status_code in {202, 404, 422}
        claimed = self._client.post(
            f"{API}/pending-requests/claim/",
            data=WORKER,
            content_type="application/json",
            headers=self._site.as_worker(**{"Idempotency-Key": new_key()}),
        )
        assert claimed.status_code in {200, 204}
        if claimed.status_code == 200:
            self._fetch(claimed.json())

    def _fetch(self, job: dict[str, Any]) -> None:
        for series in job["manifest"]:
            for item in series["instances"]:
                answer = self._client.get(
                    f"{API}/requests/{job['request_id']}/instances/{item['id']}",
                    headers=self._site.as_worker(),
                )
                assert answer.status_code == 200
                assert len(answer.content) == item["bytes"]


@pytest.fixture
def uploads(client: Client, site: Any) -> Uploads:
    client.raise_request_exception = False
    return Uploads(client, site)


def run(uploads: Uploads, bodies: Any, kind: str) -> None:
    before = peak_bytes()

    @given(body=bodies)
    @FUZZ
    def fuzz(body: bytes) -> None:
        uploads.send(body, kind)

    fuzz()
    assert uploads.slowest_s < MOST_SECONDS
    assert peak_bytes() - before < MOST_GROWTH_BYTES


def test_instances(uploads: Uploads) -> None:
    run(uploads, BODIES, "application/dicom")
    assert uploads.taken  # else only the door was tested


def test_zips(uploads: Uploads) -> None:
    run(uploads, ZIPS, "application/zip")


def test_what_was_not_mutated_is_taken(uploads: Uploads) -> None:
    """The fuzzer's seed and its nesting are good DICOM: a mutant is refused for its mutation."""
    uploads.send(encoded([], 0, False), "application/dicom")
    uploads.send(encoded([], 3, True), "application/dicom")
    assert uploads.taken == 2
