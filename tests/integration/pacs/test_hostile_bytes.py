"""Whatever bytes arrive, the answer is a refusal with a sentence, never another error."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from django_queue_app import frames
from django_queue_app.errors import ServiceError
from django_queue_app.pacs.embedded import EmbeddedPacs
from django_queue_app.pacs.header import read_header
from django_queue_app.privacy.pseudonymise import pseudonymise
from django_queue_app.privacy.pseudonyms import Pseudonyms
from django_queue_app.privacy.reidentify import build_vault, reidentify_seg
from tests.support import small_series
from tests.support.dicom_phantoms import AXIAL, Phantom, lesion, write_enhanced, write_series
from tests.support.seg_files import make_seg

KEY = Pseudonyms(key=b"a key of the test")
MUTANTS = 400


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change, cut and insert a few bytes, most of them in the header."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        limit = min(len(changed), chance.choice([400, 1200, 4000, 20_000]))
        place, kind = chance.randrange(128, limit), chance.random()
        if kind < 0.6:
            changed[place] = chance.randrange(256)
        elif kind < 0.8:
            del changed[place : place + chance.randint(1, 9)]
        else:
            changed[place:place] = chance.randbytes(chance.randint(1, 9))
    return bytes(changed)


def count_accepted(data: bytes, use: Callable[[bytes], object]) -> int:
    chance, accepted = random.Random(7), 0
    for _ in range(MUTANTS):
        try:
            use(mutate(data, chance))
        except ServiceError as error:
            if error.http_status >= 500:
                raise
            continue
        accepted += 1
    return accepted


@pytest.fixture(params=["classic", "enhanced"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    if request.param == "enhanced":
        return write_enhanced(tmp_path / "enhanced.dcm", Phantom())[0].read_bytes()
    return small_series.mr_series()[0]


def test_headers_are_read_or_refused(image: bytes) -> None:
    assert count_accepted(image, read_header) > 0


def test_images_are_pseudonymised_or_refused(image: bytes) -> None:
    assert count_accepted(image, lambda data: pseudonymise(data, KEY)) > 0


@pytest.mark.django_db
def test_masks_are_given_back_and_drawn_or_refused(tmp_path: Path) -> None:
    pacs = EmbeddedPacs()
    files = [path.read_bytes() for path in write_series(tmp_path, Phantom())]
    series_id = [pacs.store_instance(data).series_id for data in files][-1]
    main = pacs.describe_series(series_id)
    originals = [pacs.read_instance(one.id) for one in main.instances]
    vault = build_vault(main, [], [KEY])
    served = [pseudonymise(data, KEY) for data in originals]
    truth = lesion(AXIAL).transpose(2, 1, 0)
    count_accepted(make_seg(served, truth), lambda data: reidentify_seg(data, vault, originals[0]))
    count_accepted(
        make_seg(originals, truth),
        lambda data: frames.render_frames(pacs.store_instance(data).instance_id),
    )
