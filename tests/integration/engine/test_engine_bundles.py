from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.integration.engine.bundles import (
    BRATS_VALUES,
    CHANNEL_FIRST,
    INVERT,
    LOAD,
    ORIENTATION,
    SIGMOID,
    SPACING,
    THRESHOLD,
    blobs,
    compose,
    describe,
    dice,
    expected_labels,
    thresholding_weights,
    write_bundle,
)
from worker.adapters.engine_monai import MonaiEngine
from worker.core.errors import ModelInvalid, SeriesInvalid

UPRIGHT = np.diag([1.0, 1.0, 1.0, 1.0])


def ignore(_: float) -> None:
    return None


def segment(path: Path, image: np.ndarray, affine: np.ndarray = UPRIGHT, **options: object):
    entry = describe(path, **options)
    return MonaiEngine("cpu").segment(entry, image, affine, ignore)


def test_channel_order_and_label_values_are_the_bundles_own(tmp_path: Path) -> None:
    labels = segment(write_bundle(tmp_path / "b"), blobs())
    assert not labels.is_overlapping
    np.testing.assert_array_equal(labels.array, expected_labels(blobs()))


def test_nothing_is_saved_and_no_data_set_is_read(tmp_path: Path) -> None:
    segment(write_bundle(tmp_path / "b"), blobs())
    assert not (tmp_path / "b" / "eval").exists()


def test_callers_image_is_left_as_it_was(tmp_path: Path) -> None:
    scale = {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x.mul_(0) + 1"}
    image = blobs()
    segment(write_bundle(tmp_path / "b", preprocessing=compose(LOAD, scale)), image)
    np.testing.assert_array_equal(image, blobs())


def test_case_gives_the_same_mask_twice_on_a_warm_engine(tmp_path: Path) -> None:
    entry = describe(write_bundle(tmp_path / "b"))
    engine = MonaiEngine("cpu")
    first = engine.segment(entry, blobs(), UPRIGHT, ignore)
    second = engine.segment(entry, blobs(), UPRIGHT, ignore)
    np.testing.assert_array_equal(first.array, second.array)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_flipped_axes_give_the_same_mask_flipped(tmp_path: Path, axes: tuple[int, ...]) -> None:
    image = blobs()
    affine = np.diag([0.8, 0.9, 1.25, 1.0])
    flip = np.eye(4)
    for axis in axes:
        flip[axis, axis] = -1
        flip[axis, 3] = image.shape[axis + 1] - 1
    path = write_bundle(tmp_path / "b")
    upright = segment(path, image, affine).array
    flipped = segment(path, np.flip(image, [axis + 1 for axis in axes]).copy(), affine @ flip).array
    np.testing.assert_array_equal(np.flip(flipped, axes), upright)


def test_permuted_axes_give_the_same_mask_permuted(tmp_path: Path) -> None:
    image, affine = blobs(), np.diag([0.8, 0.9, 1.25, 1.0])
    order = (2, 0, 1)
    path = write_bundle(tmp_path / "b")
    upright = segment(path, image, affine).array
    permuted_affine = affine[:, [*order, 3]]
    permuted = segment(
        path, image.transpose(0, *(axis + 1 for axis in order)).copy(), permuted_affine
    ).array
    np.testing.assert_array_equal(permuted, upright.transpose(order))


def test_oblique_grid_keeps_each_voxel_in_its_place(tmp_path: Path) -> None:
    angle = np.deg2rad(20)
    rotation = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.9, 0.9, 1.5])
    affine[:3, 3] = (-40, 17, 5)
    labels = segment(write_bundle(tmp_path / "b"), blobs(), affine).array
    expected = expected_labels(blobs())
    for value in (1, 2, 4):
        assert dice(labels == value, expected == value) > 0.85  # edges move with interpolation
        centre = np.argwhere(labels == value).mean(axis=0)
        np.testing.assert_allclose(centre, np.argwhere(expected == value).mean(axis=0), atol=0.6)


def test_bundle_without_invertd_is_brought_back_to_the_images_grid(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", postprocessing=compose(SIGMOID, THRESHOLD, BRATS_VALUES))
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    labels = segment(path, blobs(), affine)
    np.testing.assert_array_equal(labels.array, expected_labels(blobs()))


def test_one_key_for_each_sequence_is_fed_in_channel_order(tmp_path: Path) -> None:
    keys = ["t1c", "t1", "t2"]
    preprocessing = compose(
        {"_target_": "LoadImaged", "keys": [*keys, "label"]},
        {"_target_": "EnsureChannelFirstd", "keys": [*keys, "label"]},
        {"_target_": "ConcatItemsd", "keys": keys, "name": "image"},
    )
    path = write_bundle(
        tmp_path / "b",
        preprocessing=preprocessing,
        postprocessing=compose(SIGMOID, THRESHOLD, BRATS_VALUES),
    )
    np.testing.assert_array_equal(segment(path, blobs()).array, expected_labels(blobs()))


def test_yaml_configuration_works_as_json_does(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b")
    (path / "configs" / "inference.json").rename(path / "configs" / "inference.yaml")
    np.testing.assert_array_equal(segment(path, blobs()).array, expected_labels(blobs()))


def test_regions_that_overlap_stay_apart(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", postprocessing=compose(SIGMOID, INVERT, THRESHOLD))
    labels = segment(path, blobs(), values=(1, 2, 3))
    assert labels.is_overlapping
    assert labels.values == (1, 2, 3)
    np.testing.assert_array_equal(labels.array, blobs() > 0.5)


def test_one_hot_classes_with_a_background_become_a_label_map(tmp_path: Path) -> None:
    one_hot = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True, "to_onehot": 3}
    path = write_bundle(
        tmp_path / "b",
        outputs=("background", "a", "b"),
        postprocessing=compose(one_hot),
        preprocessing=compose(LOAD),
    )
    labels = segment(path, blobs(), values=(1, 2))
    assert not labels.is_overlapping
    assert labels.present_values() == {1}  # ties go to the first channel


def test_threshold_of_the_settings_replaces_the_bundles(tmp_path: Path) -> None:
    image = blobs() * 0.52  # a sigmoid of 0.69
    path = write_bundle(tmp_path / "b")
    entry = describe(path)
    assert MonaiEngine("cpu").segment(entry, image, UPRIGHT, ignore).present_values() == {1, 2, 4}
    strict = MonaiEngine("cpu", threshold=0.9)
    assert strict.segment(entry, image, UPRIGHT, ignore).present_values() == set()
    own = describe(path, threshold=0.6)
    assert strict.segment(own, image, UPRIGHT, ignore).present_values() == {1, 2, 4}


def test_a_threshold_of_the_settings_is_told_with_the_result(tmp_path: Path) -> None:
    engine = MonaiEngine("cpu", threshold=0.9)
    entry = describe(write_bundle(tmp_path / "by_threshold"))
    (told,) = engine.segment(entry, blobs(), UPRIGHT, ignore).notes
    assert "set to 0.9" in told
    assert MonaiEngine("cpu").segment(entry, blobs(), UPRIGHT, ignore).notes == ()
    likeliest = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
    path = write_bundle(
        tmp_path / "likeliest", preprocessing=compose(LOAD), postprocessing=compose(likeliest)
    )
    (told,) = engine.segment(describe(path, values=(1, 2)), blobs(), UPRIGHT, ignore).notes
    assert "no effect" in told


def test_bundles_own_scripts_are_found_and_kept_apart(tmp_path: Path) -> None:
    for name, value in (("one", 1), ("two", 2)):
        mark = {"_target_": "scripts.mark.Mark"}
        path = write_bundle(
            tmp_path / name,
            preprocessing=compose(LOAD),
            postprocessing=compose(SIGMOID, THRESHOLD, mark),
        )
        (path / "scripts").mkdir()
        (path / "scripts" / "__init__.py").touch()
        (path / "scripts" / "mark.py").write_text(
            "class Mark:\n"
            "    def __call__(self, data):\n"
            f"        return {{**data, 'pred': data['pred'][:1] * {value}}}\n"
        )
    engine = MonaiEngine("cpu")
    for name, value in (("one", 1), ("two", 2)):
        entry = describe(tmp_path / name, name=name)
        assert engine.segment(entry, blobs(), UPRIGHT, ignore).present_values() == {value}
    assert not list(tmp_path.rglob("__pycache__"))


def test_progress_grows_from_zero_to_one_and_windows_are_counted(tmp_path: Path) -> None:
    seen: list[float] = []
    entry = describe(write_bundle(tmp_path / "b"))
    MonaiEngine("cpu").segment(entry, blobs(), UPRIGHT, seen.append)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
    # LIA of (24, 20, 28): axes 24, 28, 20 in windows of 16 that step by 8.
    assert sum(1 for value in set(seen) if 0 < value < 1) == 2 * 3 * 2 - 1


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda image: image[:2], "channel_count"),
        (lambda image: np.where(image > 0, np.nan, image), "not_finite"),
        (lambda image: np.where(image > 0, np.inf, image), "not_finite"),
        (lambda image: image * np.array([1, 0, 1])[:, None, None, None], "constant_image"),
    ],
)
def test_unusable_images_are_refused_by_name(tmp_path: Path, spoil, code: str) -> None:
    with pytest.raises(SeriesInvalid) as refused:
        segment(write_bundle(tmp_path / "b"), spoil(blobs()).astype(np.float32))
    assert refused.value.code == code


def test_network_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    weights = thresholding_weights(3)
    weights["bias"][1] = float("nan")
    with pytest.raises(ModelInvalid, match="not numbers"):
        segment(write_bundle(tmp_path / "b", weights=weights), blobs())


def test_label_without_a_code_is_refused_not_dropped(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match="label 4") as refused:
        segment(write_bundle(tmp_path / "b"), blobs(), values=(1, 2))
    assert refused.value.code == "label_without_code"


def test_probabilities_are_not_taken_for_labels(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", postprocessing=compose(SIGMOID, INVERT))
    with pytest.raises(ModelInvalid, match="AsDiscreted"):
        segment(path, blobs() * 0.51)


def test_error_in_a_bundles_step_names_the_step(tmp_path: Path) -> None:
    broken = {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x[7]"}
    path = write_bundle(tmp_path / "b", preprocessing=compose(LOAD, broken))
    with pytest.raises(ModelInvalid, match="preparing the images: IndexError"):
        segment(path, blobs())


def save_with_prefix(path: Path) -> None:
    state = {f"module.{key}": value for key, value in thresholding_weights(3).items()}
    torch.save({"epoch": 7, "state_dict": state}, path / "models" / "model.pt")


def save_safetensors_as_pth(path: Path) -> None:
    (path / "models" / "model.pt").unlink()
    save_file(thresholding_weights(3), path / "models" / "anything.pth")


def save_script(path: Path) -> None:
    network = torch.nn.Conv3d(3, 3, 1)
    network.load_state_dict(thresholding_weights(3))
    (path / "models" / "model.pt").unlink()
    torch.jit.script(network).save(str(path / "models" / "model.ts"))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("save", [save_with_prefix, save_safetensors_as_pth, save_script])
def test_weights_are_read_however_they_were_saved(tmp_path: Path, save) -> None:
    path = write_bundle(tmp_path / "b")
    save(path)
    np.testing.assert_array_equal(segment(path, blobs()).array, expected_labels(blobs()))


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harmed",)


def test_pickled_code_in_weights_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_bundle(tmp_path / "b")
    torch.save({"model": Harmful()}, path / "models" / "model.pt")
    with pytest.raises(ModelInvalid, match="would run code"):
        segment(path, blobs())
    assert not (tmp_path / "harmed").exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", weights=torch.nn.Conv3d(3, 5, 1).state_dict())
    with pytest.raises(ModelInvalid, match="2 have another shape"):
        segment(path, blobs())


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b")
    weights = path / "models" / "model.pt"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ModelInvalid, match="damaged"):
        segment(path, blobs())


def test_weights_outside_the_bundle_are_refused(tmp_path: Path) -> None:
    torch.save(thresholding_weights(3), tmp_path / "elsewhere.pt")
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(tmp_path / "elsewhere.pt"),
        "load_dict": {"model": "@network"},
    }
    path = write_bundle(tmp_path / "b", checkpointloader=loader)
    with pytest.raises(ModelInvalid, match="outside its folder"):
        segment(path, blobs())


def test_bundle_without_weights_runs_only_where_that_is_allowed(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", has_weights=False)
    with pytest.raises(ModelInvalid, match="has no weights"):
        segment(path, blobs())
    entry = describe(path, allow_random_weights=True)
    assert any("random" in warning for warning in entry.warnings)
    first = MonaiEngine("cpu").segment(entry, blobs(), UPRIGHT, ignore)
    second = MonaiEngine("cpu").segment(entry, blobs(), UPRIGHT, ignore)
    np.testing.assert_array_equal(first.array, second.array)


def test_small_segresnet_runs_with_every_usual_step(tmp_path: Path) -> None:
    network = {
        "_target_": "SegResNet",
        "init_filters": 4,
        "in_channels": 3,
        "out_channels": 3,
        "blocks_down": [1, 1],
        "blocks_up": [1],
        "norm": ["GROUP", {"num_groups": 2}],
    }
    normalise = {
        "_target_": "NormalizeIntensityd",
        "keys": "@image_key",
        "nonzero": True,
        "channel_wise": True,
    }
    path = write_bundle(
        tmp_path / "b",
        network=network,
        preprocessing=compose(compose(LOAD, CHANNEL_FIRST), ORIENTATION, SPACING, normalise),
        has_weights=False,
    )
    labels = segment(path, blobs(), allow_random_weights=True)
    assert labels.shape == (24, 20, 28)
    assert labels.present_values() <= {1, 2, 4}
