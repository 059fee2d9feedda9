"""An S3 server of our own: moto's, as a process, on a free port, empty at each start."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import httpx

from tests.support.live_site import free_port

START_LIMIT_S = 60
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class ObjectStore:
    """A running S3 server.

    Parameters
    ----------
    folder : Path
        For its log.
    """

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        with (folder / "moto.log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("moto_server")), "-p", str(port)],
                stdout=log,
                stderr=log,
            )
        self._wait_until_up()

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs in order to find it."""
        return {**KEYS, "AWS_ENDPOINT_URL_S3": self.url}

    def make_bucket(self, name: str) -> str:
        """Make a bucket; return its address for `SEGMENTATION_STORAGE`."""
        with closing(self._client()) as client:
            client.create_bucket(Bucket=name)
        return f"s3://{name}"

    def names(self, bucket: str) -> list[str]:
        """List the files of a bucket."""
        with closing(self._client()) as client:
            listed = client.list_objects_v2(Bucket=bucket)
        return [one["Key"] for one in listed.get("Contents", [])]

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=KEYS["AWS_DEFAULT_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )

    def _wait_until_up(self) -> None:
        end = time.monotonic() + START_LIMIT_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                httpx.get(self.url, trust_env=False)
            except httpx.TransportError:
                time.sleep(0.1)
            else:
                return
        self.stop()
        raise RuntimeError("moto_server did not start")
