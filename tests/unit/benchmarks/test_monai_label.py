"""The benchmark beside MONAI Label: all of it that needs no MONAI Label."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from benchmarks import monai_label
from benchmarks.models import REPOSITORY
from benchmarks.monai_label_server import adapt_bundle, read_answer, write_image, write_stand_in
from benchmarks.process_tree import ProcessTree

REQUIREMENTS = "benchmarks/monai_label.requirements.txt"


@pytest.mark.parametrize("given", [(), ("--python", "no/such/python")])
def test_without_an_environment_one_sentence_says_how_to_make_it(given: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match=r"--python ENV/bin/python\.$") as ended:
        monai_label.main(given)
    assert REQUIREMENTS in str(ended.value)
    lines = (REPOSITORY / REQUIREMENTS).read_text(encoding="utf-8").splitlines()
    packages = [line.partition("==") for line in lines if not line.startswith("#")]
    assert all(version for _, _, version in packages)
    versions = {name: version for name, _, version in packages}
    assert versions["torch"] == "2.13.0"
    assert versions["pydicom"].startswith("2.")


def test_without_the_zoos_bundle_one_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monai_label, "real_data_folder", lambda: tmp_path)
    with pytest.raises(SystemExit, match="SEGMENTATION_TEST_DATA"):
        monai_label.main(["--python", sys.executable])


def test_a_bundle_is_changed_in_what_monai_label_needs_and_nothing_else(tmp_path: Path) -> None:
    steps = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "Identityd"}]
    config = {"preprocessing": {"transforms": steps}, "amp": True}
    names = {"0": "Tumor core", "1": "Whole tumor", "2": "Enhancing tumor"}
    outputs = {"pred": {"channel_def": names, "num_channels": 3}}
    metadata = {"network_data_format": {"outputs": outputs}, "version": "1"}
    (tmp_path / "configs").mkdir()
    paths = [tmp_path / "configs" / f"{name}.json" for name in ("inference", "metadata")]
    for path, content in zip(paths, (config, metadata), strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")
    adapt_bundle(tmp_path)
    config["preprocessing"] = {"transforms": [{**steps[0], "ensure_channel_first": True}, steps[1]]}
    assert json.loads(paths[0].read_text()) == config
    changed = json.loads(paths[1].read_text())
    found = changed["network_data_format"]["outputs"]["pred"].pop("channel_def")
    assert set(found) == {"0", "1", "2", "4"}
    del outputs["pred"]["channel_def"]
    assert changed == metadata


def test_four_volumes_become_one_image_with_channels_last(tmp_path: Path) -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    arrays = [np.full((2, 3, 4), value, np.uint16) for value in (5, 6, 7, 8)]
    volumes = [tmp_path / f"{index}.nii.gz" for index in range(4)]
    for path, array in zip(volumes, arrays, strict=True):
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
    write_image(volumes, tmp_path / "studies" / "head.nii.gz")
    image = nibabel.load(tmp_path / "studies" / "head.nii.gz")
    assert image.shape == (2, 3, 4, 4)
    assert np.asanyarray(image.dataobj)[0, 0, 0].tolist() == [5, 6, 7, 8]
    assert np.array_equal(image.affine, affine)


def test_an_answer_is_taken_apart_byte_by_byte() -> None:
    mask = bytes(range(256)) * 3 + b"\r\n--other\r\n\n\r"
    body = (
        b'--B\r\nContent-Disposition: form-data; name="params"\r\n'
        b'Content-Type: application/json\r\n\r\n{"latencies": {"total": 1.5}}\r\n'
        b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.nii.gz"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + mask + b"\r\n--B--\r\n"
    )
    said, found = read_answer("multipart/form-data; boundary=B", body)
    assert said == {"latencies": {"total": 1.5}}
    assert found == mask


def test_the_stand_in_gives_the_names_that_are_imported(tmp_path: Path) -> None:
    program = "from torchvision.utils import make_grid, save_image"
    environ = {"PYTHONPATH": str(write_stand_in(tmp_path / "stand-in"))}
    subprocess.run([sys.executable, "-c", program], check=True, env=environ, timeout=60)


WORKS_WHEN_ASKED = """
import subprocess, sys
burn = "import time\\nwhile time.process_time() < 0.3: pass"
print("ready", flush=True)
for _ in sys.stdin:
    taken = bytearray(b"1") * 60_000_000
    del taken
    subprocess.run([sys.executable, "-c", burn], check=True)
    print("done", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_memory_that_was_given_back_and_children_that_ended_are_counted() -> None:
    command = [sys.executable, "-c", WORKS_WHEN_ASKED]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        tree = ProcessTree(process.pid)
        idle = tree.measure(lambda: None)

        def work() -> None:
            print("go", file=process.stdin, flush=True)
            assert process.stdout
            assert process.stdout.readline() == "done\n"

        busy = tree.measure(work)
        process.communicate()
    assert idle.cpu_s < 0.1
    assert idle.peak_mb < 10
    assert busy.cpu_s > 0.25
    assert 55 < busy.peak_mb < 200
