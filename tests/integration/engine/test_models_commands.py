from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.engine.bundles import write_bundle
from worker import cli

CODE = {"value": "T", "scheme": "99TEST", "meaning": "Test"}


def write_config(folder: Path, *, values: tuple[int, ...], **options: Any) -> Path:
    segments = {v: {"label": f"Test {v}", "category": CODE, "type": CODE} for v in values}
    body = {
        "default_model": "small",
        "inference": {"device": "cpu"},
        "models": {"small": {"path": "small", "segments": segments, "options": options}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(body))
    return folder / "config.yaml"


def mri_worker(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["models", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_model_is_added_listed_verified_and_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "small")
    config = str(write_config(tmp_path, values=(1, 2, 4)))
    _, out, _ = mri_worker(capsys, "list", "--json", "--config", config)
    assert json.loads(out)["models"][0]["state"] == "not added"
    code, _, err = mri_worker(capsys, "verify", "small", "--config", config)
    assert (code, "models add small" in err) == (78, True)

    code, out, err = mri_worker(capsys, "add", "small", "--config", config)
    assert code == 0, err
    assert "Added small 1.2.3" in out
    assert "Tests only" in out
    _, out, _ = mri_worker(capsys, "list", "--json", "--config", config)
    assert json.loads(out)["models"][0]["state"] == "ready"

    code, out, err = mri_worker(capsys, "verify", "--json", "--config", config)
    assert code == 0, err
    assert set(json.loads(out)["labels_seen"]) <= {1, 2, 4}
    code, out, err = mri_worker(
        capsys, "bench", "--shape", "32x24x16", "--repeat", "2", "--json", "--config", config
    )
    assert code == 0, err
    assert len(json.loads(out)["segment_s_all"]) == 2


def test_labels_without_codes_are_refused_with_the_values_the_model_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "small")
    config = str(write_config(tmp_path, values=(1,)))
    code, out, err = mri_worker(capsys, "add", "small", "--config", config)
    assert code == 78
    assert "was not added" in err
    segments = yaml.safe_load(out)["models"]["small"]["segments"]
    assert {value: body["label"] for value, body in segments.items()} == {
        2: "whole",
        4: "enhancing",
    }
    assert not (tmp_path / "models.lock.json").exists()

    code, out, err = mri_worker(capsys, "add", "small", "--json", "--config", config)
    assert (code, json.loads(out)["error"]["code"]) == (78, "model_without_codes")
    assert "segments:" in err


def test_model_that_cannot_be_loaded_is_not_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "small", has_weights=False)
    config = str(write_config(tmp_path, values=(1, 2, 4)))
    code, _, err = mri_worker(capsys, "add", "small", "--config", config)
    assert (code, "has no weights" in err) == (78, True)


def test_model_at_a_path_can_be_looked_at_before_it_is_configured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "small")
    write_bundle(tmp_path / "other")
    config = str(write_config(tmp_path, values=(1, 2, 4)))
    code, out, err = mri_worker(capsys, "add", str(tmp_path / "other"), "--config", config)
    assert code == 78
    to_fill_in = yaml.safe_load(out)["models"]["other"]
    assert set(to_fill_in["segments"]) == {1, 2, 4}
    assert to_fill_in["path"] == str(tmp_path / "other")
    assert "'other' was not added" in err
    code, _, err = mri_worker(capsys, "add", "nowhere", "--config", config)
    assert (code, "neither a model" in err) == (78, True)
