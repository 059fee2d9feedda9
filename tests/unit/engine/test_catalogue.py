from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker.catalogue import (
    describe_model,
    expected_labels,
    find_model,
    find_weights,
    missing_codes,
    segments_to_fill_in,
)
from worker.core.errors import ModelInvalid, SettingsError
from worker.core.segments import Code, SegmentSpec
from worker.model_pins import hash_files, lock_path, pin_of, read_pins, write_pin
from worker.settings import Settings, load_settings
from worker.settings_models import ModelSettings

CODE = Code(value="T", scheme="99TEST", meaning="Test")


def spec(value: int) -> SegmentSpec:
    return SegmentSpec(label_value=value, label=f"Test {value}", category=CODE, type=CODE)


def bundle(root: Path, *, outputs: tuple[str, ...] = ("background", "lesion"), **more: Any) -> Path:
    metadata: dict[str, Any] = {
        "version": "1.2.3",
        "intended_use": "Tests only",
        "network_data_format": {
            "inputs": {"image": {"channel_def": {"1": "T1", "0": "T1c", "10": "X"}}},
            "outputs": {"pred": {"channel_def": {str(i): name for i, name in enumerate(outputs)}}},
        },
        **more,
    }
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (root / "configs" / "inference.json").write_text("{}")
    (root / "models" / "model.pt").write_bytes(b"weights")
    return root


def model(path: Path, *segments: SegmentSpec, **more: Any) -> ModelSettings:
    return ModelSettings(name="m", path=path, segments=segments, **more)


def settings_for(path: Path, *, has_codes: bool = True) -> Settings:
    code = {"value": "T", "scheme": "99TEST", "meaning": "Test"}
    entry: dict[str, Any] = {"path": str(path)}
    if has_codes:
        entry["segments"] = {1: {"label": "Lesion", "category": code, "type": code}}
    config = path.parent / "config.yaml"
    config.write_text(yaml.safe_dump({"default_model": "m", "models": {"m": entry}}))
    return load_settings(config, {})


def add(settings: Settings) -> None:
    files = hash_files(settings.models["m"].path)
    write_pin(settings.config_path, "m", pin_of("1.2.3", files))


def test_channels_come_from_channel_def_in_numeric_order(tmp_path: Path) -> None:
    entry = describe_model(model(bundle(tmp_path / "b"), spec(1)))
    assert entry.channels == ("T1c", "T1", "X")
    assert entry.version == "1.2.3"
    assert entry.output_channels == ("background", "lesion")
    assert entry.warnings == ("Intended use of this model: Tests only",)


def test_channels_of_the_settings_must_be_as_many_as_the_models(tmp_path: Path) -> None:
    path = bundle(tmp_path / "b")
    assert describe_model(model(path, channels=("A", "B", "C"))).channels == ("A", "B", "C")
    with pytest.raises(ModelInvalid, match="expected 3 names"):
        describe_model(model(path, channels=("A",)))


def test_model_that_names_no_channels_asks_for_them(tmp_path: Path) -> None:
    path = bundle(tmp_path / "b", network_data_format={})
    with pytest.raises(ModelInvalid, match=r"models\.m\.channels"):
        describe_model(model(path))
    assert describe_model(model(path, channels=("T1",))).channels == ("T1",)


def test_segments_are_in_ascending_label_value(tmp_path: Path) -> None:
    entry = describe_model(model(bundle(tmp_path / "b"), spec(4), spec(1), spec(2)))
    assert entry.label_values == (1, 2, 4)


def test_label_without_a_code_is_named_and_never_guessed(tmp_path: Path) -> None:
    path = bundle(tmp_path / "b", outputs=("background", "a", "b"))
    entry = describe_model(model(path, spec(1)))
    assert expected_labels(entry) == {1: "a", 2: "b"}
    assert missing_codes(entry) == {2: "b"}
    assert missing_codes(entry, {7: "seen"}) == {2: "b", 7: "seen"}


def test_values_of_overlapping_regions_are_left_to_the_settings(tmp_path: Path) -> None:
    path = bundle(tmp_path / "b", outputs=("core", "whole", "enhancing"))
    assert missing_codes(describe_model(model(path, spec(1), spec(2), spec(4)))) == {}
    assert missing_codes(describe_model(model(path))) == {1: "core", 2: "whole", 3: "enhancing"}


def test_block_to_fill_in_is_yaml_that_the_settings_refuse_until_filled(tmp_path: Path) -> None:
    text = segments_to_fill_in("m", {1: 'a "quoted" name', 2: "종양"})
    body = yaml.safe_load(text)
    assert body["models"]["m"]["segments"][1]["label"] == 'a "quoted" name'
    body["models"]["m"]["path"] = "b"
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"default_model": "m", **body}), encoding="utf-8")
    with pytest.raises(SettingsError):
        load_settings(config, {})


def test_model_runs_only_after_it_was_added(tmp_path: Path) -> None:
    settings = settings_for(bundle(tmp_path / "b"))
    with pytest.raises(ModelInvalid, match="mri-worker models add m") as refused:
        find_model(settings)
    assert refused.value.code == "model_not_added"
    add(settings)
    assert find_model(settings).name == "m"


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("configs/inference.json", "configs/inference.json changed"),
        ("models/model.pt", "models/model.pt changed"),
        ("scripts/new.py", "scripts/new.py is new"),
        ("torch.py", "torch.py is new"),
        ("docs/trick.so", "docs/trick.so is new"),
    ],
)
def test_changed_model_is_refused_and_the_file_named(tmp_path: Path, place: str, what: str) -> None:
    settings = settings_for(bundle(tmp_path / "b"))
    add(settings)
    file = tmp_path / "b" / place
    file.parent.mkdir(exist_ok=True)
    file.write_text("other")
    with pytest.raises(ModelInvalid, match=what) as refused:
        find_model(settings)
    assert refused.value.code == "model_changed"


def test_files_that_cannot_run_may_change(tmp_path: Path) -> None:
    settings = settings_for(bundle(tmp_path / "b"))
    add(settings)
    (tmp_path / "b" / "docs").mkdir()
    (tmp_path / "b" / "docs" / "README.md").write_text("new")
    (tmp_path / "b" / "eval").mkdir()
    (tmp_path / "b" / "eval" / "out.nii.gz").write_text("new")
    assert find_model(settings).name == "m"


def test_linked_folder_is_refused_since_it_cannot_be_pinned(tmp_path: Path) -> None:
    path = bundle(tmp_path / "b")
    (tmp_path / "elsewhere").mkdir()
    (path / "scripts").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(ModelInvalid, match="link to a folder"):
        hash_files(path)


def test_digest_is_that_of_sha256sum_lines_with_forward_slashes(tmp_path: Path) -> None:
    path = bundle(tmp_path / "b")
    names = ("configs/inference.json", "configs/metadata.json", "models/model.pt")
    lines = [f"{hashlib.sha256((path / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert describe_model(model(path)).sha256 == expected


def test_pinning_one_model_keeps_the_others(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    write_pin(config, "b", pin_of("1", {"x": "1"}))
    write_pin(config, "a", pin_of("2", {"y": "2"}))
    pins = read_pins(config)
    assert (pins["a"].version, pins["b"].files) == ("2", {"x": "1"})
    assert lock_path(config).read_text().endswith("}\n")


def test_unreadable_pins_are_a_mistake_in_the_settings(tmp_path: Path) -> None:
    lock_path(tmp_path / "config.yaml").write_text("{")
    with pytest.raises(SettingsError, match=r"models\.lock\.json"):
        read_pins(tmp_path / "config.yaml")


def test_unknown_and_missing_models_are_told_apart(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "nowhere")
    with pytest.raises(ModelInvalid, match="no model at") as missing:
        find_model(settings)
    with pytest.raises(ModelInvalid, match="it has: m") as unknown:
        find_model(settings, "other")
    assert (missing.value.code, unknown.value.code) == ("model_not_found", "model_unknown")


def test_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(ModelInvalid, match="no MONAI bundle"):
        describe_model(model(tmp_path / "b"))


def test_options_are_checked_by_name_and_kind(tmp_path: Path) -> None:
    path = bundle(tmp_path / "b")
    with pytest.raises(ModelInvalid, match="allow_random_weights: expected true or false") as error:
        describe_model(model(path, options={"allow_random_weights": 1, "turbo": True}))
    assert "got 'turbo'" in error.value.message


def test_weights_are_never_guessed_among_several(tmp_path: Path) -> None:
    path = bundle(tmp_path / "b")
    assert find_weights(path) == path / "models" / "model.pt"
    (path / "models" / "model.pt").rename(path / "models" / "best.pth")
    assert find_weights(path) == path / "models" / "best.pth"
    (path / "models" / "last.pth").touch()
    assert find_weights(path) is None


def test_models_are_described_without_importing_torch() -> None:
    code = "import sys, worker.catalogue, worker.models_cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
