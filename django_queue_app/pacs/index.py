"""Tables of the embedded DICOM store's index, and the digests of what is served to workers.

Primary keys are Orthanc ids. The files themselves lie beside the database, named by their digest.
"""

from __future__ import annotations

from django.db import models
from django.utils import timezone

ID_LENGTH = 44
UID_LENGTH = 64
# Vendors write more than the 64 characters of LO; an index must not fail on that.
TEXT_LENGTH = 256


class Study(models.Model):
    """One study of one patient."""

    id = models.CharField(primary_key=True, max_length=ID_LENGTH)
    patient_id = models.CharField(max_length=ID_LENGTH, db_index=True)
    study_uid = models.CharField(max_length=UID_LENGTH, db_index=True)
    patient_dicom_id = models.CharField(max_length=TEXT_LENGTH, blank=True, default="")
    patient_name = models.CharField(max_length=TEXT_LENGTH, blank=True, default="")
    study_date = models.CharField(max_length=16, blank=True, default="")
    description = models.CharField(max_length=TEXT_LENGTH, blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.id


class Series(models.Model):
    """One series of a study."""

    id = models.CharField(primary_key=True, max_length=ID_LENGTH)
    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="series")
    series_uid = models.CharField(max_length=UID_LENGTH, db_index=True)
    modality = models.CharField(max_length=16, blank=True, default="", db_index=True)
    description = models.CharField(max_length=TEXT_LENGTH, blank=True, default="")
    number = models.BigIntegerField(null=True, blank=True)
    sequence_type = models.CharField(max_length=8, blank=True, default="")
    sequence_confidence = models.FloatField(default=0.0)
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.id


class Instance(models.Model):
    """One instance: where its file lies, and what its header says of its place in space."""

    id = models.CharField(primary_key=True, max_length=ID_LENGTH)
    series = models.ForeignKey(Series, on_delete=models.CASCADE, related_name="instances")
    sop_uid = models.CharField(max_length=UID_LENGTH)
    sop_class_uid = models.CharField(max_length=UID_LENGTH, blank=True, default="")
    frame_of_reference_uid = models.CharField(max_length=UID_LENGTH, blank=True, default="")
    number = models.BigIntegerField(null=True, blank=True)
    rows = models.PositiveIntegerField(default=0)
    columns = models.PositiveIntegerField(default=0)
    frames = models.PositiveIntegerField(default=1)
    position = models.JSONField(null=True, blank=True)
    orientation = models.JSONField(null=True, blank=True)
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.id


class RemoteSeries(models.Model):
    """UIDs of a series in an archive that knows no ids (DICOMweb).

    An id is a digest of PatientID and UIDs, so a row is never wrong, only of no use any more.
    `used_at` is right to the day: `pruning` needs no more.
    """

    id = models.CharField(primary_key=True, max_length=ID_LENGTH)
    study_uid = models.CharField(max_length=UID_LENGTH)
    series_uid = models.CharField(max_length=UID_LENGTH)
    used_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.id


class RemoteInstance(models.Model):
    """UID of an instance in an archive that knows no ids."""

    id = models.CharField(primary_key=True, max_length=ID_LENGTH)
    series = models.ForeignKey(RemoteSeries, on_delete=models.CASCADE, related_name="instances")
    sop_uid = models.CharField(max_length=UID_LENGTH)

    def __str__(self) -> str:
        return self.id


class ServedDigest(models.Model):
    """Size and digest of an instance as workers get it, so that a manifest reads no pixels.

    `content` names what went in (the original's digest, or its size where the archive gives no
    digest) and `recipe` what was done to it (the key's and the rules' version); either changing
    makes the entry stale. `used_at` is right to the day.
    """

    instance_id = models.CharField(max_length=ID_LENGTH)
    content = models.CharField(max_length=80)
    recipe = models.CharField(max_length=40)
    sha256 = models.CharField(max_length=64)
    size_bytes = models.BigIntegerField()
    used_at = models.DateTimeField(default=timezone.now)

    class Meta:
        """One entry per instance and recipe; a changed original replaces it."""

        constraints = (
            models.UniqueConstraint(
                fields=["instance_id", "recipe"], name="served_digest_per_recipe"
            ),
        )

    def __str__(self) -> str:
        return f"{self.instance_id} ({self.recipe})"
