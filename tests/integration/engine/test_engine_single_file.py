from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.integration.engine.bundles import (
    blobs,
    describe,
    dice,
    thresholding_weights,
)
from worker.adapters.engine_monai import MonaiEngine
from worker.core.errors import ModelInvalid

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

DESCRIPTION = {
    "version": "2.0",
    "channels": ["T1c", "T1", "T2"],
    "output_channels": ["a", "b", "c"],
    "spacing_mm": [1, 1, 1],
    "orientation": "LIA",
    "normalisation": "none",
    "roi_size": [16, 16, 16],
    "overlap": 0.5,
    "output": "sigmoid",
}


def network() -> torch.nn.Module:
    conv = torch.nn.Conv3d(3, 3, 1)
    conv.load_state_dict(thresholding_weights(3))
    return conv.eval()


def save_script(path: Path) -> None:
    torch.jit.trace(network(), torch.zeros(1, 3, 16, 16, 16)).save(str(path))


def zip_archive() -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("readme.txt", "no model")
    return body.getvalue()


def save_exported(path: Path) -> None:
    program = torch.export.export(network(), (torch.zeros(1, 3, 16, 16, 16),))
    torch.export.save(program, path)


@pytest.mark.parametrize(("name", "save"), [("m.ts", save_script), ("m.pt2", save_exported)])
def test_single_file_with_a_yaml_beside_it_gives_the_mask(tmp_path: Path, name: str, save) -> None:
    save(tmp_path / name)
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(DESCRIPTION))
    entry = describe(tmp_path / name, values=(1, 2, 3))
    assert (entry.version, entry.channels) == ("2.0", ("T1c", "T1", "T2"))
    affine = np.diag([-0.9, 1.0, 1.25, 1.0])
    seen: list[float] = []
    labels = MonaiEngine("cpu").segment(entry, blobs(), affine, seen.append)
    assert labels.is_overlapping
    for index in range(3):
        assert dice(labels.array[index] > 0, blobs()[index] > 0) > 0.9
    assert seen[-1] == 1.0
    assert len(set(seen)) > 3


def test_argmax_output_leaves_out_the_background(tmp_path: Path) -> None:
    save_script(tmp_path / "m.ts")
    description = DESCRIPTION | {"output": "argmax", "output_channels": ["background", "b", "c"]}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(description))
    image = blobs()
    image[0] = 0.1 + 0.8 * image[0]
    entry = describe(tmp_path / "m.ts", values=(1, 2))
    labels = MonaiEngine("cpu").segment(entry, image, np.eye(4), lambda _: None)
    np.testing.assert_array_equal(labels.array, image.argmax(axis=0))


def test_state_dict_alone_is_no_model(tmp_path: Path) -> None:
    torch.save(thresholding_weights(3), tmp_path / "m.pt")
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(DESCRIPTION))
    with pytest.raises(ModelInvalid, match="holds no TorchScript program"):
        MonaiEngine("cpu").load(describe(tmp_path / "m.pt", values=(1, 2, 3)))


@pytest.mark.parametrize("name", ["m.ts", "m.pt2"])
@pytest.mark.parametrize("content", [b"", b"no archive", zip_archive()], ids=["0", "text", "zip"])
def test_damaged_file_is_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(DESCRIPTION))
    with pytest.raises(ModelInvalid) as refused:
        MonaiEngine("cpu").load(describe(tmp_path / name, values=(1, 2, 3)))
    assert refused.value.message.startswith(name)
    assert "\n" not in refused.value.message
    assert "Traceback" not in capfd.readouterr().err
