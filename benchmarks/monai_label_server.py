"""MONAI Label's server in a temporary folder, and its own functions between DICOM and NIfTI.

It runs the sample app `monaibundle` of the environment that it is given, with one bundle. What had
to be worked round is told in `benchmarks/monai_label.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any, cast

import nibabel
import numpy as np
import requests

from benchmarks.made_case import MadeCase
from benchmarks.made_engine import write_thin_bundle
from benchmarks.models import real_data_folder
from benchmarks.process_tree import ProcessTree
from benchmarks.stage_meter import Cost, run_program
from benchmarks.stages import THIN
from tests.support.live_site import free_port

APP, IMAGE, ONE_SERIES = "monaibundle", "head", "one-series"
LABELS = {0: "background", 1: "tumour core", 2: "oedema", 4: "enhancing tumour"}
REQUEST = {"params": json.dumps({"device": "cpu", "result_dtype": "uint8"})}
LONGEST_START_S, LONGEST_CASE_S = 120.0, 600.0


def adapt_bundle(bundle: Path) -> None:
    """Change a copy of the zoo's BraTS bundle so that MONAI Label can run it."""
    path = bundle / "configs" / "inference.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for step in config["preprocessing"]["transforms"]:
        if step["_target_"] == "LoadImaged":
            step["ensure_channel_first"] = True
    path.write_text(json.dumps(config, indent=4), encoding="utf-8")
    path = path.with_name("metadata.json")
    metadata = json.loads(path.read_text(encoding="utf-8"))
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = LABELS
    path.write_text(json.dumps(metadata, indent=4), encoding="utf-8")


def write_stand_in(folder: Path) -> Path:
    """Write what MONAI Label imports from torchvision and does not call here."""
    package = folder / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "utils.py").write_text("make_grid = save_image = None\n", encoding="utf-8")
    return folder


def write_image(volumes: Sequence[Path], path: Path) -> None:
    """Write volumes of one grid as one NIfTI file, channels last."""
    images = [nibabel.load(volume) for volume in volumes]
    channels = np.stack([np.asanyarray(image.dataobj) for image in images], axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(channels, images[0].affine), path)


@dataclass(frozen=True, kw_only=True)
class Place:
    """MONAI Label's environment, and a temporary folder for all that it writes."""

    python: Path
    folder: Path

    def environ(self) -> dict[str, str]:
        """Give its environment: nothing of this project's but dcmqi, which it would download."""
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PYTHONPATH": str(self.folder / "stand-in"), "PATH": programs}
        return {**os.environ, **own, "HOME": str(self.folder), "TMPDIR": str(self.folder / "tmp")}

    def prepare(self, volumes: Sequence[Path]) -> None:
        """Lay out its app with the bundle, and the image."""
        (self.folder / "tmp").mkdir(parents=True)
        write_stand_in(self.folder / "stand-in")
        command = [str(self.python), "-m", "monailabel.main", "apps", "--download", "--name", APP]
        command += ["--output", str(self.folder)]
        run_program(command, cwd=self.folder, environ=self.environ())
        bundle = self.folder / APP / "model" / THIN
        bundle.parent.mkdir()
        adapt_bundle(write_thin_bundle(real_data_folder() / "brats_mri_segmentation", bundle))
        write_image(volumes, self.folder / "studies" / f"{IMAGE}.nii.gz")
        shutil.copy(volumes[0], self.folder / "studies" / f"{ONE_SERIES}.nii.gz")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server."""

    url: str
    tree: ProcessTree

    def ask(self) -> tuple[Mapping[str, Any], bytes]:
        """Have the case segmented; give what it says of it, and the mask's file."""
        answer = self._ask_for(IMAGE)
        answer.raise_for_status()
        return read_answer(answer.headers["Content-Type"], answer.content)

    def status_of(self, image: str) -> int:
        """Give the HTTP status of its answer to an image."""
        return self._ask_for(image).status_code

    def _ask_for(self, image: str) -> requests.Response:
        url = f"{self.url}/infer/{THIN}?image={image}"
        return requests.post(url, data=REQUEST, timeout=LONGEST_CASE_S)

    def info_s(self) -> float:
        """Give the seconds until it answers what it is."""
        began = time.perf_counter()
        requests.get(f"{self.url}/info/", timeout=LONGEST_CASE_S).raise_for_status()
        return time.perf_counter() - began

    def info_while_busy_s(self) -> float:
        """Give the same while it segments."""
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(self.ask)
            time.sleep(0.5)  # long enough to be in it, a case takes seconds
            waited = self.info_s()
            asked.result()
        return waited


def read_answer(content_type: str, body: bytes) -> tuple[Mapping[str, Any], bytes]:
    """Take a form apart: what the server says of the case, and the mask's file."""
    form = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    parts = cast("list[Message]", form.get_payload())
    said, mask = (cast("bytes", part.get_payload(decode=True)) for part in parts)
    return json.loads(said), mask


@contextmanager
def running_server(place: Place) -> Iterator[Server]:
    """Run MONAI Label's server on loopback; stop it at the end."""
    port, log = free_port(), place.folder / "server.log"
    command = [str(place.python), "-m", "monailabel.main", "start_server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--app", str(place.folder / APP)]
    command += ["--studies", str(place.folder / "studies"), "--conf", "models", THIN]
    command += ["--conf", "zoo_source", "none", "--conf", "skip_trainers", "true"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=place.folder, env=place.environ(), stdout=out, stderr=out
        )
    server = Server(url=f"http://127.0.0.1:{port}", tree=ProcessTree(process.pid))
    try:
        _wait_until_up(server, process, log)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_up(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + LONGEST_START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            server.info_s()
        except requests.RequestException:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"MONAI Label did not start:\n{log.read_text(errors='replace')[-3000:]}")


_DICOM_STEPS = """
import json, sys
from monailabel.datastore.utils.convert import dicom_to_nifti, nifti_to_dicom_seg
series, mask, labels = json.loads(sys.argv[1])
print("ready", flush=True)
for _ in sys.stdin:
    for folder in series:
        dicom_to_nifti(folder)
    written = nifti_to_dicom_seg(series[0], mask, [{"name": name} for name in labels])
    print("done" if written else "failed", flush=True)
"""


def measure_dicom(place: Place, made: MadeCase, mask: Path, rounds: int) -> list[Cost]:
    """Measure MONAI Label's own functions between DICOM and NIfTI, warm in one process."""
    names = [name for value, name in LABELS.items() if value]
    case = json.dumps([[*map(str, made.folders)], str(mask), names])
    with subprocess.Popen(
        [str(place.python), "-W", "ignore", "-c", _DICOM_STEPS, case],
        cwd=place.folder,
        env=place.environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def step(line: str = "go\n") -> None:
            assert process.stdin
            assert process.stdout
            process.stdin.write(line)
            process.stdin.flush()
            if (said := process.stdout.readline().strip()) not in ("ready", "done"):
                raise RuntimeError(f"MONAI Label's conversion ended: {said!r}")

        step("")
        tree = ProcessTree(process.pid)
        step()
        costs = [tree.measure(step) for _ in range(rounds)]
        process.communicate()
    return costs
