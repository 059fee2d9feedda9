"""Takes a MONAI bundle apart, unedited: network, preprocessing, inferer and postprocessing.

The configuration's own reading from and writing to files, its data sets, loaders, handlers,
evaluator, `initialize` and `run` are left out: nothing of them is even parsed, since the parser
resolves only what is asked for. (`initialize` holds process-wide switches, such as cuDNN's
benchmark mode, which would make results differ between runs, and the checkpoint's loading, which
`weights` does.)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.inferers import SimpleInferer
from monai.transforms import Compose
from monai.transforms.transform import MapTransform

from worker.adapters.engine_monai.bundle_imports import importable
from worker.adapters.engine_monai.faults import let_warnings_pass
from worker.adapters.engine_monai.parts import IMAGE_KEY, Parts, Transform
from worker.adapters.engine_monai.weights import is_torchscript, load_torchscript, load_weights
from worker.catalogue import ModelEntry, find_weights, inference_config
from worker.core.errors import ModelInvalid

logger = logging.getLogger(__name__)

# Ours to do: the array comes from DICOM, channel first, and the mask goes to DICOM SEG.
_LOADERS = ("LoadImage", "LoadImaged", "LoadImageD", "LoadImageDict")
_SAVERS = ("SaveImage", "SaveImaged", "SaveImageD", "SaveImageDict")
_CHANNEL_FIRST = (
    "EnsureChannelFirst",
    "EnsureChannelFirstd",
    "EnsureChannelFirstD",
    "EnsureChannelFirstDict",
)
_CONCATENATE = ("ConcatItemsd", "ConcatItemsD", "ConcatItemsDict")
_LEFT_OUT = frozenset(_LOADERS + _SAVERS + _CHANNEL_FIRST)
_LABEL_KEYS = frozenset({"label", "labels", "mask", "seg"})  # of evaluation, never of inference

Config = dict[str, Any] | list[Any]


def load_bundle(entry: ModelEntry, device: torch.device) -> Parts:
    """Build a bundle's parts and load its weights.

    Raises
    ------
    ModelInvalid
        The configuration lacks a part or can't be built, or there are no fitting weights.
    """
    with importable(entry.path):
        parser = _parser(entry.path, device)
        image_keys, has_labels = _image_keys(parser)
        _disable_files(parser.config)
        parser.parse(reset=True)  # what was asked for so far is kept otherwise
        torch.manual_seed(0)  # random weights, where they are allowed, are the same each time
        network = _part(parser, "network", "network_def").to(device)
        preprocessing = _without_files(_part(parser, "preprocessing", "preprocessing_transforms"))
        if has_labels:
            _allow_missing_keys(preprocessing)
        network, is_trained = _with_weights(network, parser, entry, device)
        return Parts(
            network=network.eval(),
            preprocessing=preprocessing,
            inferer=_optional(parser, "inferer") or SimpleInferer(),
            postprocessing=_without_files(
                _part(parser, "postprocessing", "postprocessing_transforms")
            ),
            image_keys=image_keys,
            input_key=_input_key(parser, image_keys),
            is_mixed_precision=_is_mixed_precision(parser),
            is_trained=is_trained,
        )


def _parser(bundle: Path, device: torch.device) -> ConfigParser:
    path = inference_config(bundle)
    parser = ConfigParser()
    try:
        parser.read_config(str(path))
        _read_meta(parser, bundle)
    except (ValueError, TypeError) as error:
        raise ModelInvalid(f"{path} can't be read: {error}.") from error
    parser["bundle_root"] = str(bundle)
    parser["device"] = device  # DEVICE decides, whatever the configuration would take
    return parser


def _read_meta(parser: ConfigParser, bundle: Path) -> None:
    """Read the metadata too, which a configuration can refer to as ``@_meta_``."""
    let_warnings_pass()
    for name in ("metadata.json", "metadata.yaml", "metadata.yml"):
        if (bundle / "configs" / name).is_file():
            parser.read_meta(str(bundle / "configs" / name))


def _part(parser: ConfigParser, *names: str) -> Any:
    for name in names:
        found = _optional(parser, name)
        if found is not None:
            return Compose(found) if isinstance(found, (list, tuple)) else found
    raise ModelInvalid(f"The bundle's inference configuration has no {names[0]!r}.")


def _optional(parser: ConfigParser, name: str) -> Any:
    return parser.get_parsed_content(name) if name in parser.config else None


def _components(config: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Walk a configuration and give each component with its id."""
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(config, dict):
        if "_target_" in config:
            yield where, config
        items = iter(config.items())
    elif isinstance(config, list):
        items = iter(enumerate(config))
    for key, value in items:
        yield from _components(value, f"{where}::{key}" if where else str(key))


def _target(component: Mapping[str, Any]) -> str:
    return str(component["_target_"]).rsplit(".", 1)[-1]


def _image_keys(parser: ConfigParser) -> tuple[tuple[str, ...], bool]:
    """Give the keys that the bundle loads images under, and whether it loads labels too."""
    for name in ("preprocessing", "preprocessing_transforms"):
        for where, component in _components(parser.config.get(name), name):
            if _target(component) in _LOADERS and "keys" in component:
                keys = parser.get_parsed_content(f"{where}::keys")
                names = (keys,) if isinstance(keys, str) else tuple(str(key) for key in keys)
                images = tuple(key for key in names if key not in _LABEL_KEYS)
                return images or (IMAGE_KEY,), len(images) < len(names)
    named = parser.config.get("image_key")
    return (named if isinstance(named, str) else IMAGE_KEY,), False


def _input_key(parser: ConfigParser, image_keys: tuple[str, ...]) -> str:
    for where, component in _components(parser.config.get("preprocessing"), "preprocessing"):
        if _target(component) in _CONCATENATE and "name" in component:
            return str(parser.get_parsed_content(f"{where}::name"))
    return image_keys[0]


def _disable_files(config: Any) -> None:
    # In the configuration, so that not even their constructors run; indices stay as they are.
    for _, component in _components(config):
        if _target(component) in _LEFT_OUT:
            component["_disabled_"] = True


def _without_files(transform: Any) -> Transform:
    """Drop what an expression in the configuration built past `_disable_files`, in place.

    In place, since `Invertd` holds the same preprocessing and inverts what was applied.
    """
    if isinstance(transform, Compose):
        transform.transforms = tuple(
            _without_files(inner)
            for inner in transform.transforms
            if type(inner).__name__ not in _LEFT_OUT and _is_enabled(inner)
        )
    result: Transform = transform
    return result


def _is_enabled(transform: Any) -> bool:
    return transform is not None and not isinstance(transform, Mapping)


def _allow_missing_keys(transform: Any) -> None:
    for inner in getattr(transform, "transforms", ()):
        _allow_missing_keys(inner)
    if isinstance(transform, MapTransform):
        transform.allow_missing_keys = True


def _is_mixed_precision(parser: ConfigParser) -> bool:
    for name in ("evaluator::amp", "amp"):
        try:
            return bool(parser.get_parsed_content(name))
        except (KeyError, ValueError):
            continue
    return False


@dataclass(frozen=True, kw_only=True)
class _Checkpoint:
    path: Path | None
    holder: str = "model"
    is_strict: bool = True


def _checkpoint(parser: ConfigParser, bundle: Path) -> _Checkpoint:
    """Give what the bundle's CheckpointLoader would load, or the usual file without one."""
    for where, component in _components(parser.config):
        if _target(component) != "CheckpointLoader":
            continue
        path = Path(str(parser.get_parsed_content(f"{where}::load_path"))).resolve()
        if not path.is_relative_to(bundle.resolve()):
            raise ModelInvalid(
                f"The bundle loads its weights from {path}, outside its folder, where they can't "
                "be pinned: put them into its models folder."
            )
        is_strict = component.get("strict", True) is not False
        holder = next(iter(component.get("load_dict") or {}), "model")
        found = path if path.is_file() else find_weights(bundle)
        return _Checkpoint(path=found, holder=str(holder), is_strict=is_strict)
    return _Checkpoint(path=find_weights(bundle))


def _with_weights(
    network: torch.nn.Module, parser: ConfigParser, entry: ModelEntry, device: torch.device
) -> tuple[torch.nn.Module, bool]:
    checkpoint = _checkpoint(parser, entry.path)
    path = checkpoint.path
    if path is None:
        if entry.options.get("allow_random_weights"):
            logger.warning("model_has_random_weights", extra={"model": entry.name})
            return network, False
        raise ModelInvalid(
            f"The model {entry.name!r} has no weights: put its model.pt or model.safetensors into "
            f"{entry.path / 'models'}.",
            code="model_without_weights",
        )
    if is_torchscript(path):
        return load_torchscript(path, device), True
    load_weights(network, path, holder=checkpoint.holder, is_strict=checkpoint.is_strict)
    return network, True


def apply_threshold(transform: Any, threshold: float) -> bool:
    """Set the threshold of every AsDiscreted that has one; tell whether there was any."""
    found = [apply_threshold(inner, threshold) for inner in getattr(transform, "transforms", ())]
    own: Sequence[Any] | None = getattr(transform, "threshold", None)
    if type(transform).__name__.startswith("AsDiscrete") and isinstance(own, Sequence):
        transform.threshold = tuple(None if old is None else threshold for old in own)
        found.append(any(old is not None for old in own))
    return any(found)
