"""What `manage.py prune` removes, and what it must not touch."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.management import call_command
from django.utils import timezone

from django_queue_app import artifact_files, last_use, pruning, served
from django_queue_app.models import (
    Artifact,
    Attempt,
    Event,
    Instance,
    RemoteSeries,
    SegmentationRequest,
    Series,
    ServedDigest,
    Study,
    Worker,
)
from django_queue_app.pruning import Pruned
from tests.support.queue_driver import Job, Queue, make_series_id

DAY_S = 86_400


@pytest.fixture
def data_dir(settings: Any, tmp_path: Path) -> Path:
    settings.SEGMENTATION_DATA_DIR = tmp_path
    settings.SEGMENTATION_KEEP_REQUESTS_DAYS = 365
    return tmp_path


def files(data_dir: Path) -> list[Path]:
    return [one for one in (data_dir / "artifacts").rglob("*") if one.is_file()]


def upload(job: Job) -> None:
    """Keep a mask as the API does: the file, then its row."""
    kept = artifact_files.keep_file(f"{job.request_id}/x", "mask.dcm", ContentFile(b"mask"))
    job.upload()
    Artifact.objects.filter(request_id=job.request_id).update(storage_name=kept)


def test_nothing_goes_unless_the_settings_say_so(queue: Queue) -> None:
    queue.file()
    queue.take(queue.token()).complete()
    queue.pass_time(5000 * DAY_S)
    assert pruning.prune(now=queue.now).requests == 0
    assert SegmentationRequest.objects.exists()


def test_a_request_beyond_its_time_goes_with_all_that_belongs_to_it(
    queue: Queue, data_dir: Path
) -> None:
    queue.file()
    old = queue.take(queue.token())
    upload(old)
    old.complete()
    SegmentationRequest.objects.update(saved_to_pacs_at=queue.now)
    queue.pass_time(366 * DAY_S)
    queue.file()
    young = queue.take(queue.token())
    upload(young)
    young.complete()
    assert len(files(data_dir)) == 2
    dry = pruning.prune(is_dry=True, now=queue.now)
    assert dry.requests == 1
    assert SegmentationRequest.objects.count() == len(files(data_dir)) == 2
    assert pruning.prune(now=queue.now).requests == 1
    assert [one.pk for one in SegmentationRequest.objects.all()] == [young.request_id]
    for kind in (Attempt, Event, Artifact):
        owners = kind.objects.values_list("request", flat=True)  # type: ignore[attr-defined]
        assert set(owners) == {young.request_id}
    assert len(files(data_dir)) == 1


def test_what_is_not_finished_stays_however_old(queue: Queue, data_dir: Path) -> None:
    waiting, running, unsaved = (queue.file().pk for _ in range(3))
    token = queue.token()
    for key in (waiting, running):
        SegmentationRequest.objects.filter(pk=key).update(priority=-1)
    done = queue.take(token)
    assert done.request_id == unsaved
    upload(done)
    done.complete()  # its mask waits for an archive that is away
    assert queue.take(token).request_id == waiting
    queue.pass_time(5000 * DAY_S)
    assert pruning.prune(now=queue.now).requests == 0
    assert SegmentationRequest.objects.count() == 3


def test_a_request_stays_as_long_as_its_retry(queue: Queue, data_dir: Path) -> None:
    from django_queue_app import services

    first = queue.file()
    services.cancel(request_id=first.pk, actor="doctor", now=queue.now)
    queue.pass_time(300 * DAY_S)
    again = services.retry(request_id=first.pk, actor="doctor", now=queue.now)
    services.cancel(request_id=again.pk, actor="doctor", now=queue.now)
    queue.pass_time(100 * DAY_S)
    assert pruning.prune(now=queue.now).requests == 0
    queue.pass_time(300 * DAY_S)
    assert pruning.prune(now=queue.now).requests == 2
    assert not Event.objects.exists()


def test_requests_are_kept_for_a_month_at_least(
    queue: Queue, data_dir: Path, settings: Any
) -> None:
    settings.SEGMENTATION_KEEP_REQUESTS_DAYS = 1
    queue.file()
    queue.take(queue.token()).complete()
    SegmentationRequest.objects.update(saved_to_pacs_at=queue.now)
    queue.pass_time(29 * DAY_S)
    assert pruning.prune(now=queue.now).requests == 0
    queue.pass_time(2 * DAY_S)
    assert pruning.prune(now=queue.now).requests == 1


def test_a_worker_that_holds_something_stays(queue: Queue) -> None:
    gone, holding = queue.token(), queue.token()
    queue.claim(gone)
    queue.file()
    queue.take(holding)
    queue.pass_time(91 * DAY_S)
    assert pruning.prune(now=queue.now).workers == 1
    assert [one.token_id for one in Worker.objects.all()] == [holding.pk]


def digest(instance_id: str, *, recipe: str = "", days: float = 0) -> None:
    ServedDigest.objects.create(
        instance_id=instance_id,
        recipe=recipe or served.recipe(),
        content="x",
        sha256="0" * 64,
        size_bytes=1,
        used_at=timezone.now() - timedelta(days=days),
    )


def test_digests_of_images_that_are_there_stay(db: None, data_dir: Path) -> None:
    study = Study.objects.create(id="study", patient_id="p", study_uid="1")
    series = Series.objects.create(id="series", study=study, series_uid="1")
    Instance.objects.create(id="here", series=series, sop_uid="1", size_bytes=1, sha256="0" * 64)
    digest("here", days=500)
    digest("here", recipe="older", days=2)
    digest("gone", days=2)
    digest("arriving")  # its instance is written in a moment
    assert pruning.prune().digests == 2
    left = ServedDigest.objects.values_list("instance_id", "recipe")
    assert set(left) == {("here", served.recipe()), ("arriving", served.recipe())}


def test_of_a_remote_archive_what_was_used_lately_stays(
    db: None, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Remote:
        is_remote = True

    monkeypatch.setattr(pruning, "get_pacs", Remote)
    digest("old", days=91)
    digest("lately", days=89)
    assert pruning.prune().digests == 1
    assert ServedDigest.objects.get().instance_id == "lately"


def test_series_of_a_study_that_was_asked_for_stay(queue: Queue) -> None:
    long_ago = timezone.now() - timedelta(days=91)
    named, beside, other = (make_series_id(number) for number in (701, 702, 703))
    for key, study in ((named, "1.1"), (beside, "1.1"), (other, "1.2")):
        RemoteSeries.objects.create(id=key, study_uid=study, series_uid=key, used_at=long_ago)
    queue.file(main_series_id=named)
    assert pruning.prune().series == 1
    assert set(RemoteSeries.objects.values_list("pk", flat=True)) == {named, beside}


def test_use_is_noted_once_a_day(db: None) -> None:
    now = timezone.now()
    for key, age in (("old", timedelta(days=2)), ("fresh", timedelta(hours=2))):
        RemoteSeries.objects.create(id=key, study_uid="1", series_uid=key, used_at=now - age)
    last_use.touch(RemoteSeries, RemoteSeries.objects.all())
    used = dict(RemoteSeries.objects.values_list("pk", "used_at"))
    assert used["old"] >= now
    assert used["fresh"] == now - timedelta(hours=2)


def test_the_command_counts_first_and_removes_then(queue: Queue, data_dir: Path) -> None:
    queue.claim(queue.token())  # in a January long ago

    def run(*arguments: str) -> str:
        out = io.StringIO()
        call_command("prune", *arguments, stdout=out)
        return out.getvalue()

    assert json.loads(run("--dry-run", "--json")) == {
        "is_dry_run": True,
        **vars(Pruned(workers=1)),
    }
    assert "1 workers" in run()
    assert not Worker.objects.exists()
    assert json.loads(run("--json"))["workers"] == 0
