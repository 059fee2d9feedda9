"""A real Orthanc of the tests' own: Debian's, with its DICOMweb plugin, on a free port."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.support.live_site import free_port

PROGRAM = Path("/usr/sbin/Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "site", "a password of the test"
LONGEST_START_S = 60.0


def is_installed() -> bool:
    return PROGRAM.exists() and PLUGIN.exists()


@dataclass
class OrthancServer:
    """A running Orthanc."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def dicomweb_url(self) -> str:
        return f"{self.url}/dicom-web"

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        response = requests.request(
            method, self.url + path, auth=(USER, PASSWORD), timeout=60, **options
        )
        response.raise_for_status()
        return response

    def ids(self, level: str) -> list[str]:
        return list(self.call("GET", f"/{level}").json())

    def empty(self) -> None:
        for patient in self.ids("patients"):
            self.call("DELETE", f"/patients/{patient}")

    def settings(self, kind: str) -> dict[str, str]:
        """Give the environment of a site that uses it."""
        return {
            "SEGMENTATION_PACS": kind,
            "SEGMENTATION_PACS_URL": self.dicomweb_url if kind == "dicomweb" else self.url,
            "SEGMENTATION_PACS_USER": USER,
            "SEGMENTATION_PACS_PASSWORD": PASSWORD,
        }

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(folder: Path, *, port: int | None = None, **options: Any) -> OrthancServer:
    """Start one that keeps its data in `folder`; the port may be that of one that was stopped."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    # This Orthanc binds to every address whatever it is told; it answers the own machine alone.
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomServerEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **options,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration), encoding="utf-8")
    with (folder / "orthanc.log").open("ab") as log:
        process = subprocess.Popen([str(PROGRAM), str(path)], stdout=log, stderr=log)
    server = OrthancServer(url=f"http://127.0.0.1:{port}", folder=folder, process=process)
    _wait_until_up(server)
    return server


def _wait_until_up(server: OrthancServer) -> None:
    end = time.monotonic() + LONGEST_START_S
    while time.monotonic() < end and server.process.poll() is None:
        try:
            server.call("GET", "/system")
        except requests.RequestException:
            time.sleep(0.1)
        else:
            return
    server.stop()
    log = (server.folder / "orthanc.log").read_text(errors="replace")
    raise AssertionError(f"Orthanc did not start: {log}")
