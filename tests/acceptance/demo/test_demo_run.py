"""`./start_worker.sh demo`, for real: the site, the worker, the network, the files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import psutil
import pydicom
import pytest
import requests

from tests.support.demo_run import LONGEST_S, REPOSITORY, demo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * LONGEST_S),
    pytest.mark.skipif(os.name == "nt", reason="starts the shell script"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("시연 demo")


def sign_in(address: str, user: str, password: str) -> requests.Response:
    with requests.Session() as browser:
        browser.get(f"{address}/login/", timeout=30)
        form = {
            "username": user,
            "password": password,
            "csrfmiddlewaretoken": browser.cookies.get("csrftoken", ""),
        }
        return browser.post(
            f"{address}/login/", data=form, headers={"Referer": address}, timeout=30
        )


def test_a_killed_demonstration_leaves_nothing_in_the_way(folder: Path) -> None:
    with demo(folder) as first:
        first.wait_for(" filed ")
        known = json.loads((folder / "processes.json").read_text(encoding="utf-8"))
        first.process.kill()
    assert any(psutil.pid_exists(one["pid"]) for one in known["children"])

    with demo(folder) as second:
        assert second.process.wait(LONGEST_S) == 0, second.text()
        assert " mL " in second.text()
    assert not any(psutil.pid_exists(one["pid"]) for one in known["children"])


def test_it_shows_the_result_and_stays_up_when_asked_to(folder: Path) -> None:
    with demo(folder, "--keep") as running:
        running.wait_for("Ctrl-C stops it")
        assert running.found(r"tumour +([\d.]+) mL in all") != "0.00"
        assert "demonstration, not for clinical use" in running.text()

        results = folder / "result" / running.found(r"request +([0-9a-f-]{36})")
        names = ["mask.dcm", "mask.nii.gz", "preview.png", "report.html", "report.json"]
        assert sorted(path.name for path in results.iterdir()) == names
        for name in names:
            assert str(results / name) in running.text()
        mask = nib.load(results / "mask.nii.gz")
        seg = pydicom.dcmread(results / "mask.dcm")
        assert seg.Modality == "SEG"
        assert (seg.Columns, seg.Rows) == mask.shape[:2]

        address = running.found(r"page +(http://127\.0\.0\.1:\d+)/")
        password = running.found(r"one-time password (\S+)")
        assert sign_in(address, "doctor", password).url == f"{address}/"
        assert sign_in(address, "doctor", "wrong").url == f"{address}/login/"

        second = subprocess.run(
            [sys.executable, "-m", "demo", "--folder", str(folder)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 1
        assert f"running already (process {running.process.pid}, {address})" in second.stderr

        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(60) == 0, running.text()
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=5)
    assert not (folder / "processes.json").exists()
