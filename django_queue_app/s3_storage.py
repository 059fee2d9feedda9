"""django-storages' S3 storage, with one call to the bucket for one file."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError
from django.core.files import File
from django.core.files.base import ContentFile
from storages.backends.s3 import S3Storage
from storages.utils import clean_name


class WholeFileS3Storage(S3Storage):  # type: ignore[misc]
    """Reads and writes whole files.

    django-storages asks for a file's head twice before it reads it, and goes through a manager of
    partial transfers. Files here are read whole, and most are small: that was most of the CPU of
    a delivery to a bucket.
    """

    def _open(self, name: str, mode: str = "rb") -> File[Any]:
        if mode != "rb":
            raise ValueError("Files are read whole and written by save().")
        key = self._normalize_name(clean_name(name))
        try:
            answer = self.bucket.meta.client.get_object(Bucket=self.bucket_name, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                raise FileNotFoundError(f"File does not exist: {name}") from error
            raise
        with answer["Body"] as body:
            return ContentFile(body.read(), name=name)

    def _save(self, name: str, content: File[Any]) -> str:
        cleaned = clean_name(name)
        key = self._normalize_name(cleaned)
        content.seek(0)
        self.bucket.meta.client.put_object(
            Bucket=self.bucket_name,
            Key=key,
            Body=content,
            **self._get_write_parameters(key, content),
        )
        return str(cleaned)
