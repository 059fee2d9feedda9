"""Markers planted wherever a header has room for them, looked for everywhere in the lab.

The whole path with nothing replaced: a site, the worker's own process, its inference process with a
small bundle. While the case is held there, and again after it, the markers are looked for in every
file of the work folder, in what the worker prints, in what it sends, and in the memory of both.
"""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pydicom
import pytest
import yaml
from pydicom import Dataset
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from django_queue_app.privacy.allow_list import ALLOWED
from tests.integration.engine.bundles import LOAD, SIGMOID, THRESHOLD, compose, write_bundle
from tests.integration.worker_daemon.conftest import wait_for
from tests.support.counted_site import BODIES, CALLS
from tests.support.held_model import GO_ON, HELD
from tests.support.live_site import REPOSITORY, LiveSite, live_environment, start_live, stop_live
from tests.support.small_series import SLICES, mr_series

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="another process's memory is read by /proc"
)

NAME, UID, DATE = "KIMCHEOLSU", "7193046528817364", "19370317"
MARKERS = (NAME, UID, DATE)
NESTED = 2  # how deep sequences lie in one another in the first slice; the rest has none
NEEDLES = {
    form: marker
    for marker in MARKERS
    for form in (marker.encode(), marker.encode("utf-16-le"), marker.lower().encode())
}
TEXTS = {"AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"}
DATES = {"DA": DATE, "DT": f"{DATE}101112"}
# Numbers, and what these say, must be readable; the pseudonymiser's own tests plant there, too.
UNPLANTED = {"SpecificCharacterSet", "ModalityLUTSequence", "NumberOfFrames"}


def _raw(tag: int, vr: str, value: str) -> RawDataElement:
    data = value.encode()
    data += (b"\0" if vr == "UI" else b" ") * (len(data) % 2)
    return RawDataElement(Tag(tag), vr, len(data), data, 0, False, True)


def planted(dataset: Dataset, *, depth: int) -> None:
    """Write markers into every attribute of text in the dictionary, and into sequences."""
    sequences = 0
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        if not keyword or retired or keyword in UNPLANTED or tag >> 16 in (0, 2, 4):
            continue
        if tag in dataset:
            continue
        if vr in TEXTS:
            dataset[tag] = _raw(tag, vr, NAME)
        elif vr == "UI":
            dataset[tag] = _raw(tag, vr, f"1.2.{UID}.{tag}")
        elif vr in DATES:
            dataset[tag] = _raw(tag, vr, DATES[vr])
        elif vr in ("UN", "OB"):
            dataset[tag] = DataElement(tag, vr, NAME.encode())
        elif vr == "SQ" and depth and (sequences < 2 or (tag in ALLOWED and depth == NESTED)):
            sequences += 1
            item = Dataset()
            planted(item, depth=depth - 1 if sequences <= 2 else 0)
            dataset[tag] = DataElement(tag, "SQ", Sequence([item]))
    for tag, vr in ((0x00290010, "LO"), (0x00291010, "UN"), (0x60004000, "LT"), (0x60003000, "OW")):
        dataset[tag] = _raw(tag, vr, NAME)


def planted_series(folder: Path) -> Path:
    """Write a series whose headers, preambles, file meta information and names hold markers."""
    folder.mkdir(parents=True)
    for index, data in enumerate(mr_series()):
        dataset = pydicom.dcmread(io.BytesIO(data))
        dataset.PatientName = dataset.PatientID = dataset.AccessionNumber = NAME
        dataset.StudyID = dataset.ReferringPhysicianName = dataset.Manufacturer = NAME
        dataset.StudyDate = dataset.PatientBirthDate = DATE
        dataset.StudyInstanceUID = f"1.2.{UID}.1"
        dataset.SeriesInstanceUID = f"1.2.{UID}.2"
        dataset.FrameOfReferenceUID = f"1.2.{UID}.3"
        dataset.SOPInstanceUID = f"1.2.{UID}.4.{index}"
        planted(dataset, depth=0 if index else NESTED)
        meta = dataset.file_meta
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        meta.SourceApplicationEntityTitle = meta.ImplementationVersionName = NAME
        meta.PrivateInformationCreatorUID = f"1.2.{UID}.5"
        meta.PrivateInformation = NAME.encode()
        dataset.preamble = NAME.encode().ljust(128, b"\0")
        dataset.save_as(folder / f"{NAME}_{DATE}_{index}.dcm", enforce_file_format=True)
    return folder


def found_in(data: bytes) -> set[str]:
    """Give the markers in some bytes."""
    return {marker for needle, marker in NEEDLES.items() if needle in data}


def found_in_files(folder: Path) -> dict[str, set[str]]:
    """Give the markers in the files of a folder and in their names."""
    found = {}
    # os.walk passes over folders that are gone since they were listed; Path.rglob raises.
    names = [Path(top, name) for top, folders, files in os.walk(folder) for name in folders + files]
    for path in names:
        try:
            data = path.read_bytes() if path.is_file() else b""
        except OSError:
            continue  # gone since it was listed
        if path.name.endswith(".nii.gz"):
            data += gzip.decompress(data)
        markers = found_in(data + path.name.encode())
        if markers:
            found[str(path.relative_to(folder))] = markers
    return found


def memory_of(pid: int) -> Iterator[bytes]:
    """Give every part of a process's memory that it could have written."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in lines:
            span, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                memory.seek(start)
                yield memory.read(end - start)
            except (OSError, ValueError, OverflowError):
                continue  # the kernel's own pages can't be read


def found_in_memory(pid: int, control: bytes) -> tuple[set[str], bool]:
    """Give the markers in a process's memory, and whether what must be there was found."""
    markers, is_seen = set[str](), False
    for part in memory_of(pid):
        markers |= found_in(part)
        is_seen = is_seen or control in part
    return markers, is_seen


class FolderWatch:
    """Looks through a folder again and again, in a thread."""

    def __init__(self, folder: Path) -> None:
        self.found: dict[str, set[str]] = {}
        self.names: set[str] = set()
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.found |= found_in_files(self._folder)
            self.names |= {path.name for path in self._folder.rglob("*")}

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveSite]:
    bodies = tmp_path / "bodies"
    bodies.mkdir()
    site = start_live(
        tmp_path / "hospital",
        command=[sys.executable, "-m", "uvicorn", "tests.support.counted_site:application"],
        **{CALLS: str(tmp_path / "calls.log"), BODIES: str(bodies)},
    )
    yield site
    stop_live(site)


def import_planted(live: LiveSite, tmp_path: Path) -> str:
    """Import the planted series into the site and give its id."""
    folder = planted_series(tmp_path / "hospital" / NAME)
    subprocess.run(
        [sys.executable, "manage.py", "import_dicom", str(folder)],
        env=live_environment(live.data_dir),
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    with live.client() as page:
        listed = {str(one["id"]) for one in page.get("/series/").json()["series"]}
    (series_id,) = listed - set(live.series.values())
    return series_id


class Lab:
    """A lab PC: a folder, a small bundle in it, and the worker's own process."""

    def __init__(self, live: LiveSite, folder: Path) -> None:
        folder.mkdir()
        self.work_dir = folder / "work"
        self.work_dir.mkdir()
        self.held, self.go_on = folder / "held", folder / "go_on"
        self.printed = folder / "printed.log"
        hold = {"_target_": "tests.support.held_model.hold"}
        write_bundle(
            folder / "bundle",
            channels=("T1",),
            outputs=("lesion",),
            preprocessing=compose(
                LOAD,
                {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
                {
                    "_target_": "Lambdad",
                    "keys": "@image_key",
                    "func": {**hold, "_mode_": "callable"},
                },
            ),
            postprocessing=compose(SIGMOID, THRESHOLD),
        )
        code = {"value": "T1", "scheme": "99TEST", "meaning": "Test"}
        config = {
            "server": {"url": live.url, "wait_s": 1, "poll_interval_s": 0.1},
            "worker": {"name": "lab-pc", "work_dir": "work", "least_free_mb": 1},
            "inference": {"device": "cpu"},
            "default_model": "held",
            "models": {
                "held": {
                    "path": "bundle",
                    "segments": {1: {"label": "Lesion", "category": code, "type": code}},
                }
            },
            "log": {"level": "debug"},
        }
        self._config = folder / "config.yaml"
        self._config.write_text(yaml.safe_dump(config))
        self._environment = {
            **os.environ,
            "WORKER_TOKEN": live.secrets["lab"],
            "PYTHONPATH": str(REPOSITORY),
            HELD: str(self.held),
            GO_ON: str(self.go_on),
        }
        # Adding a model tries it out.
        self.go_on.touch()
        assert self.run("models", "add", "held").wait(120) == 0, self.printed.read_text()
        for path in (self.held, self.go_on):
            path.unlink(missing_ok=True)

    def run(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.printed.open("ab") as printed:
            return subprocess.Popen(
                [sys.executable, "-m", "worker", *arguments, "--config", str(self._config)],
                env=self._environment,
                stdout=printed,
                stderr=printed,
                cwd=REPOSITORY,
            )


def test_no_planted_marker_is_anywhere_in_the_lab(live: LiveSite, tmp_path: Path) -> None:
    series_id = import_planted(live, tmp_path)
    original = (tmp_path / "hospital" / NAME / f"{NAME}_{DATE}_0.dcm").read_bytes()
    assert found_in(original) == set(MARKERS)
    assert original.count(NAME.encode()) > 2000
    lab = Lab(live, tmp_path / "lab")
    watch = FolderWatch(lab.work_dir)
    daemon = lab.run("run")
    try:
        with live.client() as page:
            answer = page.post(
                f"/series/{series_id}/segment/",
                json={"sequence_series_ids": [series_id]},
                headers={"Prefer": "respond-async"},
            )
            request_id = str(answer.json()["request_id"])
            path = f"/status/{request_id}/"

            def is_over() -> bool:
                return page.get(path).json()["status"] in ("completed", "failed")

            wait_for(lambda: lab.held.exists() or daemon.poll() is not None or is_over(), 120)
            assert lab.held.exists(), lab.printed.read_text()

            processes = [daemon.pid, *(c.pid for c in psutil.Process(daemon.pid).children())]
            assert len(processes) == 2
            for pid in processes:
                assert found_in_memory(pid, request_id.encode()) == (set(), True)
            assert found_in_files(lab.work_dir) == {}

            lab.go_on.touch()
            wait_for(is_over, 120)
            shown = page.get(path).json()
            assert shown["status"] == "completed", shown
            mask = page.get(f"/requests/{request_id}/mask.dcm").content
        assert found_in_memory(daemon.pid, b"lab-pc") == (set(), True)
    finally:
        lab.go_on.touch()
        daemon.terminate()
        daemon.wait(60)
        watch.end()
    assert found_in(mask) == set(MARKERS), "the site put the patient back"
    assert watch.found == {}
    assert found_in_files(lab.work_dir) == {}
    assert {"0.dcm", "cache", "mask.dcm", "job.json", "worker.log"} <= watch.names
    assert len(list((lab.work_dir / "cache").glob("??/*"))) == SLICES
    assert found_in(lab.printed.read_bytes()) == set()

    bodies = tmp_path / "bodies"
    sent = " ".join(path.name for path in bodies.iterdir())
    for call in ("claim", "heartbeat", "mask.dcm", "mask.nii.gz", "preview.png", "report.json"):
        assert call in sent
    assert "complete-request" in sent
    assert found_in_files(bodies) == {}
