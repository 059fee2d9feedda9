"""``models verify`` and ``bench``: what they prove, refuse, keep and forget."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from benchmarks.models import REPOSITORY
from demo.model_sample import SHAPE as SAMPLE_SHAPE
from tests.integration.engine.bundles import SLIDING, blobs, describe, write_bundle
from tests.integration.engine.cards import Card, Hungry, hungry_network
from tests.support.dicom_phantoms import AXIAL, paint, write_series
from worker import cli, model_measuring
from worker.adapters.engine_monai import MonaiEngine
from worker.adapters.engine_monai import networks as networks_module
from worker.adapters.engine_monai.networks import Networks, compile_problem
from worker.adapters.engine_monai.proof import REFERENCE, Trial, dice
from worker.adapters.engine_monai.roofline import count_work, roofline
from worker.adapters.engine_monai.running import NetworkRunner
from worker.adapters.engine_monai.search import search
from worker.catalogue import find_model
from worker.model_memory import Mode, ModelMemory
from worker.model_pins import hash_files, pin_of, write_pin
from worker.model_samples import find_sample, resized
from worker.settings import load_settings

CODE = {"value": "T", "scheme": "99TEST", "meaning": "Test"}
WINDOWS = {**SLIDING, "roi_size": [32, 32, 32], "sw_batch_size": 2}
SHAPE = (40, 30, 36)


class WrongInHalf(Hungry):
    """Rounds to whole numbers in half precision, as a network with large values nearly does."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        output = super().forward(given)
        return output if output.dtype is torch.float32 else output - 21


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hungry, "seen", [])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    network = {**hungry_network(), "_target_": f"{WrongInHalf.__module__}.WrongInHalf"}
    path = write_bundle(tmp_path / "small", network=network, inferer=WINDOWS)
    (path / "sample").mkdir()
    for name, image in zip(("T1c", "T1", "T2"), blobs(SHAPE), strict=True):
        nib.save(nib.Nifti1Image(image, np.eye(4)), path / "sample" / f"{name}.nii.gz")
    segments = {v: {"label": f"Test {v}", "category": CODE, "type": CODE} for v in (1, 2, 4)}
    body = {
        "default_model": "small",
        "inference": {"device": "cpu"},
        "worker": {"work_dir": "work"},
        "models": {"small": {"path": "small", "segments": segments, "options": {}}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(body))
    write_pin(tmp_path / "config.yaml", "small", pin_of("1.2.3", hash_files(path)))
    return tmp_path / "config.yaml"


@pytest.fixture
def with_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def make(settings: Any, _: str | None) -> MonaiEngine:
        return MonaiEngine(Card(), known=ModelMemory(settings.worker.work_dir))

    monkeypatch.setattr(model_measuring, "make_engine", make)
    return


def set_options(config: Path, **options: Any) -> None:
    body = yaml.safe_load(config.read_text())
    body["models"]["small"]["options"] = options
    config.write_text(yaml.safe_dump(body))


def models(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["models", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_sample_beside_the_model_proves_the_mask(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = models(capsys, "verify", "--config", str(config))
    assert code == 0, err
    assert "1 Test 1" in out
    assert "1.0000" in out
    assert "work on a GPU only: not checked here" in out
    assert "proves little" not in out


@pytest.mark.usefixtures("with_card")
def test_precision_that_changes_the_mask_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_options(config, amp="fp16")
    code, out, err = models(capsys, "verify", "--json", "--config", str(config))
    assert code == 78
    assert "gives another mask than in float32" in err
    ((mode, found),) = first_of(out)["dice"].items()
    assert mode.startswith("fp16")
    assert min(found.values()) < 0.999
    set_options(config, amp="off")
    code, out, err = models(capsys, "verify", "--json", "--config", str(config))
    assert code == 0, err


def first_of(text: str) -> dict[str, Any]:
    """Give the first JSON object of an output that ends with an error's."""
    body: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0]
    return body


def test_volume_is_read_from_dicom_or_nifti_and_refused_by_name(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sample = config.parent / "small" / "sample"
    files = [f"--volume={sample / name}.nii.gz" for name in ("T1c", "T1", "T2")]
    assert models(capsys, "verify", *files, "--config", str(config))[0] == 0
    code, _, err = models(capsys, "verify", *files[:2], "--config", str(config))
    assert (code, "needs 3 series" in err) == (64, True)
    nib.save(nib.Nifti1Image(blobs((8, 8, 8))[0], np.eye(4)), tmp_path / "other.nii")
    other = f"--volume={tmp_path / 'other.nii'}"
    code, _, err = models(capsys, "verify", *files[:2], other, "--config", str(config))
    assert (code, "don't lie on one grid" in err) == (64, True)
    (tmp_path / "broken.nii").write_bytes(b"nothing")
    broken = f"--volume={tmp_path / 'broken.nii'}"
    code, _, err = models(capsys, "verify", broken, "--config", str(config))
    assert (code, "can't be read as NIfTI" in err) == (64, True)
    folders = [f"--volume={tmp_path / 'none'}"] * 3
    assert models(capsys, "verify", *folders, "--config", str(config))[0] == 64


@pytest.mark.usefixtures("with_card")
def test_bench_keeps_the_best_that_agrees_and_forgets_it(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = models(capsys, "bench", "--json", "--repeat", "1", "--config", str(config))
    assert code == 0, err
    body = json.loads(out)
    tried = {json.dumps(item["mode"]): item for item in body["tried"]}
    assert len(tried) == len(body["tried"]) > 4
    halves = [item for item in body["tried"] if item["mode"]["precision"] == "fp16"]
    assert halves
    assert not any(item["agrees"] for item in halves)
    kept = body["kept"]["mode"]
    assert kept["precision"] == "float32"
    assert tried[json.dumps(kept)]["agrees"]
    assert body["roofline"]["gflop"] > 0

    _, out, _ = models(capsys, "list", "--config", str(config))
    assert "runs here: float32" in out
    assert "Test card" in out
    code, out, _ = models(capsys, "bench", "--forget", "--json", "--config", str(config))
    assert (code, json.loads(out)) == (0, {"forgotten": 1})
    _, out, _ = models(capsys, "list", "--config", str(config))
    assert "runs here" not in out


@pytest.mark.usefixtures("with_card")
def test_bench_prints_a_table(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("bench", "small", "--shape", "40x40x32", "--repeat", "1")
    code, out, err = models(capsys, *arguments, "--config", str(config))
    assert code == 0, err
    assert "Least" in out
    assert "differs" in out
    assert "channels_last_3d" in out
    assert "…" not in out, "a word is cut"
    assert max(len(line) for line in out.splitlines() if line.startswith("│")) <= 80
    assert "Kept: float32" in out


def test_what_bench_kept_is_what_the_worker_runs(tmp_path: Path) -> None:
    entry = describe(write_bundle(tmp_path / "b", network=hungry_network(), inferer=WINDOWS))
    known = ModelMemory(tmp_path)
    engine = MonaiEngine(Card(), known=known)
    trial = Trial(engine, entry, blobs(SHAPE), np.eye(4))
    where = engine.runner(entry).where(trial.image)
    found = search(trial, repeat=1)
    from worker.adapters.engine_monai.search import keep

    kept = keep(found, trial, known)
    assert kept.where == where
    assert MonaiEngine(Card(), known=ModelMemory(tmp_path)).runner(entry).first_mode(
        trial.image
    ) == (found.best.mode)


def test_two_empty_masks_prove_nothing(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", network=hungry_network(), inferer=WINDOWS)
    image = blobs(SHAPE) * 0.1
    trial = Trial(MonaiEngine(Card()), describe(path), image, np.eye(4))
    measured = trial.measure(Mode(precision="bf16"), repeat=1)
    assert measured.least_dice == 1.0
    assert not measured.agrees


def test_mode_that_does_not_fit_is_told_and_the_next_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bundle(tmp_path / "b", network=hungry_network(), inferer=WINDOWS)
    trial = Trial(MonaiEngine("cpu"), describe(path), blobs(SHAPE), np.eye(4))
    monkeypatch.setattr(Hungry, "limit", 2 * 3 * 32**3)
    found = search(trial, repeat=1)
    problems = [measured for measured in found.tried if measured.problem]
    assert problems
    assert all("ran out" in measured.problem for measured in problems)
    assert not found.best.problem


def test_work_is_counted_by_window_and_compared_with_the_device(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", network=hungry_network(), inferer=WINDOWS)
    engine, entry = MonaiEngine("cpu"), describe(path)
    trial = Trial(engine, entry, blobs(SHAPE), np.eye(4))
    assert tuple(trial.image.shape) == (3, 40, 36, 30)
    work = count_work(engine.parts(entry), trial.image, REFERENCE, engine.hardware)
    voxels = 4 * 32**3  # four windows
    assert work.flops == voxels * 3 * 3 * 2
    assert work.values == voxels * (3 + 3) + 4 * (3 * 3 + 3)
    limits = roofline(work, 1.0, "float32", engine.hardware)
    assert 0 < limits.share == limits.least_s


def test_compiled_network_gives_the_same_and_one_that_fails_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks_module, "compile_problem", lambda _: None)
    entry = describe(
        write_bundle(tmp_path / "b", network=hungry_network(), inferer=WINDOWS), compile=True
    )
    engine = MonaiEngine("cpu")
    parts = engine.parts(entry)
    image = torch.rand(3, *SHAPE)
    expected = NetworkRunner(entry, parts, engine.hardware, ModelMemory()).run_in(
        REFERENCE, image, lambda _: None
    )

    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler here")

    for backend in ("eager", broken):
        networks = Networks(parts.network, engine.hardware, backend=backend)
        runner = NetworkRunner(entry, parts, engine.hardware, ModelMemory(), networks=networks)
        assert runner.first_mode(image).is_compiled
        with torch.inference_mode():
            prediction = runner.run(image, lambda _: None)
        assert prediction.mode.is_compiled is (backend == "eager")
        torch.testing.assert_close(prediction.output, expected)


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "C++ compiler" in str(compile_problem(MonaiEngine("cpu").hardware))
    networks = Networks(torch.nn.Identity(), MonaiEngine("cpu").hardware)
    assert networks.allowed(Mode(is_compiled=True)) == Mode()


def test_dice_of_known_masks() -> None:
    one = np.array([True, True, False, False])
    assert dice(one, np.array([True, False, True, False])) == 0.5
    assert dice(one, one) == 1.0
    assert dice(~one & one, ~one & one) == 1.0


def test_dicom_folders_become_channels_on_the_main_series_grid(tmp_path: Path) -> None:
    entry = describe(write_bundle(tmp_path / "b", channels=("T1",), outputs=("core",)), values=(4,))
    write_series(tmp_path / "series")
    sample = find_sample(entry, [str(tmp_path / "series")], (8, 8, 8))
    assert sample.shape == AXIAL.shape
    np.testing.assert_array_equal(np.sort(np.unique(sample.channels)), np.unique(paint(AXIAL)))
    x, y, z = AXIAL.world(3, 4, 5)
    np.testing.assert_allclose(sample.affine_ras @ [3, 4, 5, 1], [-x, -y, z, 1], atol=1e-4)


def test_demonstration_model_has_its_sample() -> None:
    settings = load_settings(REPOSITORY / "config.yaml", environ={})
    sample = find_sample(find_model(settings), (), (8, 8, 8))
    assert not sample.is_made_up
    assert sample.channels.shape == (4, *SAMPLE_SHAPE)
    bigger = resized(sample, (90, 72, 54))
    assert bigger.shape == (90, 72, 54)
    corner = np.array([0.0, 0, 0, 1])
    np.testing.assert_allclose(bigger.affine_ras @ corner, sample.affine_ras @ corner)
