"""The models this worker may run, described without torch: name, channels, coded labels, pin.

What the network needs is in the bundle's own ``configs/``; what DICOM needs beside it (which series
feeds which channel, each label's code) comes from ``metadata.json`` and from config.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from worker.core.errors import ModelInvalid
from worker.core.postprocess import Postprocess
from worker.core.segments import SegmentSpec, ordered_by_label
from worker.model_pins import check_pin, description_beside, digest, hash_files, read_pins
from worker.plain_model import PlainModel, read_plain_model

if TYPE_CHECKING:
    from worker.settings import ModelSettings, Settings

ModelFormat = Literal["bundle", "torchscript", "export"]

_FORMAT_OF_SUFFIX: Mapping[str, ModelFormat] = {
    ".ts": "torchscript",
    ".pt": "torchscript",
    ".pt2": "export",
}


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What an option may be, and how that is said."""

    expected: str
    is_good: Callable[[Any], bool]


_FLAG = _Kind(expected="true or false", is_good=lambda value: isinstance(value, bool))
_NUMBER = _Kind(expected="a number such as 0.5", is_good=lambda value: isinstance(value, float))
_COUNT = _Kind(
    expected="a whole number from 1 on",
    is_good=lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
)
_AMP = _Kind(
    expected="fp16, bf16, off, true or false",
    is_good=lambda value: isinstance(value, bool) or value in ("fp16", "bf16", "off"),
)
# Those of speed take precedence over what `models bench` found (docs/models.md).
MODEL_OPTIONS: Mapping[str, _Kind] = {
    "allow_random_weights": _FLAG,  # run a bundle without weights, for tests of the path
    "amp": _AMP,  # half precision on CUDA; else what the bundle says
    "channels_last_3d": _FLAG,  # memory layout on CUDA
    "compile": _FLAG,  # by torch.compile, where there is a compiler
    "one_pass": _FLAG,  # the whole volume at once instead of the model's windows
    "threshold": _NUMBER,  # of AsDiscrete; else inference.threshold, else what the bundle says
    "window_batch": _COUNT,  # windows at once; else the bundle's, or as many as a card holds
}
_BACKGROUND_NAMES = {"background", "bg", "back ground", "none"}
_CONFIG_NAMES = ("inference.json", "inference.yaml", "inference.yml")
_WEIGHT_SUFFIXES = {".pt", ".pth", ".ts", ".safetensors"}


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model, checked against its pin unless it was asked for unchecked.

    Parameters
    ----------
    name, version : str
        Name in config.yaml; version from its metadata.
    path : Path
        Bundle folder, TorchScript or ``torch.export`` file.
    sha256 : str
        One digest over all its program and weight files (`worker.model_pins`).
    channels : tuple of str
        What each input channel is, in the network's order, such as ``("T1c", "T1", "T2")``.
    output_channels : tuple of str
        Names of the network's output channels; empty where the model doesn't say.
    segments : tuple of SegmentSpec
        In ascending label value.
    options : mapping
        From config.yaml (`MODEL_OPTIONS`).
    plain : PlainModel, optional
        How to run a model that is one file; None for a bundle.
    warnings : tuple of str
        What must be said beside every result of this model.
    sequence_check, registration, seg_type : str
        See `worker.settings_models.ModelSettings`.
    postprocess : Postprocess
        Done to the label map after the model's own postprocessing.
    """

    name: str
    path: Path
    version: str
    sha256: str
    channels: tuple[str, ...]
    segments: tuple[SegmentSpec, ...]
    format: ModelFormat
    output_channels: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    intended_use: str = ""
    plain: PlainModel | None = None
    warnings: tuple[str, ...] = ()
    sequence_check: str = "warn"
    registration: str = "off"
    seg_type: str = "binary"
    postprocess: Postprocess = field(default_factory=Postprocess)

    @property
    def label_values(self) -> tuple[int, ...]:
        """The label values that have a code, ascending."""
        return tuple(spec.label_value for spec in self.segments)

    @property
    def has_background_channel(self) -> bool:
        """Whether output channel 0 is the background."""
        return bool(self.output_channels) and is_background(self.output_channels[0])


def find_model(settings: Settings, name: str | None = None) -> ModelEntry:
    """Give a model that may be run: described, coded, pinned and unchanged.

    Parameters
    ----------
    settings : Settings
        Holds the models' paths, codes and options, and the default model.
    name : str, optional
        The default model where there is none.

    Raises
    ------
    ModelInvalid
        Unknown, missing, without codes, not added or changed; the sentence says what to do.
    """
    wanted = name or settings.default_model
    model = settings.models.get(wanted)
    if model is None:
        known = ", ".join(sorted(settings.models)) or "none"
        raise ModelInvalid(
            f"This worker has no model {wanted!r} (it has: {known}): name it under models in "
            "config.yaml.",
            code="model_unknown",
        )
    files = hash_files(model.path)
    check_pin(wanted, files, read_pins(settings.config_path).get(wanted))
    entry = describe_model(model, files=files)
    check_codes(entry)
    return entry


def describe_model(model: ModelSettings, *, files: Mapping[str, str] | None = None) -> ModelEntry:
    """Describe a model from its own files, without looking at its pin or its codes.

    Raises
    ------
    ModelInvalid
        The path holds no model, or its description can't be read.
    """
    sha256 = digest(hash_files(model.path) if files is None else files)
    _check_options(model)
    if model.path.is_dir():
        return _describe_bundle(model, sha256)
    return _describe_file(model, sha256)


def inference_config(bundle: Path) -> Path:
    """Give a bundle's inference configuration."""
    for name in _CONFIG_NAMES:
        path = bundle / "configs" / name
        if path.is_file():
            return path
    raise ModelInvalid(
        f"{bundle} is no MONAI bundle: it has none of "
        + ", ".join(f"configs/{name}" for name in _CONFIG_NAMES)
        + "."
    )


def find_weights(bundle: Path) -> Path | None:
    """Give the file that holds a bundle's weights: ``models/model.*`` first, data before programs.

    Every other weight file counts only where it is the only one, so that nothing is guessed.
    """
    folder = bundle / "models"
    for name in ("model.safetensors", "model.pt", "model.pth", "model.ts"):
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        return None
    others = [path for path in sorted(folder.iterdir()) if path.suffix in _WEIGHT_SUFFIXES]
    return others[0] if len(others) == 1 else None


def expected_labels(entry: ModelEntry) -> dict[int, str]:
    """Give the labels that the metadata promises, by value.

    Empty where they can't be known from it: without a background channel (overlapping regions) the
    postprocessing decides the values, as the BraTS bundle's 1, 2 and 4 show.
    """
    if not entry.has_background_channel:
        return {}
    return {
        value: name for value, name in enumerate(entry.output_channels) if not is_background(name)
    }


def missing_codes(entry: ModelEntry, found: Mapping[int, str] | None = None) -> dict[int, str]:
    """Give the label values that have no code, with the best name known for each.

    Parameters
    ----------
    entry : ModelEntry
    found : mapping of int to str, optional
        Label values that the model was seen to give, beside those that its metadata promises.
    """
    expected = {**(found or {}), **expected_labels(entry)}
    missing = {value: name for value, name in expected.items() if value not in entry.label_values}
    if missing or entry.segments:
        return missing
    return dict(enumerate(entry.output_channels or ("lesion",), start=1))


def check_codes(entry: ModelEntry) -> None:
    """Raise ModelInvalid where a label has no code: one is never guessed."""
    missing = missing_codes(entry)
    if missing:
        named = ", ".join(f"{value} ({name})" for value, name in sorted(missing.items()))
        raise ModelInvalid(
            f"The model {entry.name!r} gives labels without a code: {named}. Run 'mri-worker "
            f"models add {entry.name}': it prints what to fill in under models.{entry.name}."
            "segments in config.yaml.",
            code="model_without_codes",
        )


def segments_to_fill_in(name: str, missing: Mapping[int, str], path: Path | None = None) -> str:
    """Give the YAML block that a person completes with SNOMED CT codes.

    Parameters
    ----------
    name : str
    missing : mapping of int to str
        Label value -> the best name known.
    path : Path, optional
        Of a model that config.yaml doesn't have yet.
    """
    lines = ["models:", f"  {name}:"]
    if path is not None:
        lines.append(f"    path: {json.dumps(str(path), ensure_ascii=False)}")
    lines.append("    segments:")
    for value, label in sorted(missing.items()):
        lines += [
            f"      {value}:",
            f"        label: {json.dumps(label, ensure_ascii=False)}",
            '        category: {value: "", scheme: SCT, meaning: ""}'
            '  # 49755003 "Morphologically Abnormal Structure", 91723000 "Anatomical Structure"',
            '        type: {value: "", scheme: SCT, meaning: ""}'
            '  # 108369006 "Neoplasm", 12738006 "Brain", ...',
            '        anatomic_region: {value: "", scheme: SCT, meaning: ""}  # leave out if none',
        ]
    return "\n".join(lines) + "\n"


def is_background(name: str) -> bool:
    """Whether an output channel of this name is no segment."""
    return name.strip().lower().replace("_", " ") in _BACKGROUND_NAMES


def _describe_bundle(model: ModelSettings, sha256: str) -> ModelEntry:
    inference_config(model.path)
    metadata = _read_metadata(model.path)
    formats = metadata.get("network_data_format") or {}
    has_weights = find_weights(model.path) is not None
    intended_use = model.intended_use or str(metadata.get("intended_use", "")).strip()
    return ModelEntry(
        name=model.name,
        path=model.path,
        version=str(metadata.get("version", "")) or "0",
        sha256=sha256,
        channels=_input_channels(model, formats),
        output_channels=_channel_names(formats.get("outputs"), "pred"),
        segments=ordered_by_label(model.segments),
        format="bundle",
        options=dict(model.options),
        intended_use=intended_use,
        warnings=_warnings(intended_use, model.options, has_weights=has_weights),
        **_of_settings(model),
    )


def _describe_file(model: ModelSettings, sha256: str) -> ModelEntry:
    model_format = _FORMAT_OF_SUFFIX.get(model.path.suffix.lower())
    beside = description_beside(model.path)
    if model_format is None or beside is None:
        raise ModelInvalid(
            f"{model.path} is no model: expected a MONAI bundle folder, or a TorchScript (.ts, "
            ".pt) or torch.export (.pt2) file with a .yaml of the same name beside it."
        )
    plain = read_plain_model(beside)
    intended_use = model.intended_use or plain.intended_use
    return ModelEntry(
        name=model.name,
        path=model.path,
        version=plain.version,
        sha256=sha256,
        channels=_configured_channels(model, plain.channels),
        output_channels=plain.output_channels,
        segments=ordered_by_label(model.segments),
        format=model_format,
        options=dict(model.options),
        intended_use=intended_use,
        plain=plain,
        warnings=_warnings(intended_use, model.options, has_weights=True),
        **_of_settings(model),
    )


def _of_settings(model: ModelSettings) -> dict[str, Any]:
    """Give what only config.yaml says of a model, whatever its format."""
    return {
        "sequence_check": model.sequence_check,
        "registration": model.registration,
        "seg_type": model.seg_type,
        "postprocess": model.postprocess,
    }


def _warnings(
    intended_use: str, options: Mapping[str, Any], *, has_weights: bool
) -> tuple[str, ...]:
    warnings = []
    if intended_use:
        warnings.append(f"Intended use of this model: {intended_use}")
    if not has_weights and options.get("allow_random_weights"):
        warnings.append("This model has no trained weights: the mask is random and means nothing.")
    return tuple(warnings)


def _read_metadata(bundle: Path) -> Mapping[str, Any]:
    for name in ("metadata.json", "metadata.yaml", "metadata.yml"):
        path = bundle / "configs" / name
        if not path.is_file():
            continue
        try:
            body = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ModelInvalid(f"{path} can't be read: {error}.") from error
        if not isinstance(body, dict):
            raise ModelInvalid(f"{path} can't be read: expected a mapping of names to values.")
        return body
    raise ModelInvalid(
        f"{bundle} has no configs/metadata.json, which names the channels and labels."
    )


def _input_channels(model: ModelSettings, formats: Mapping[str, Any]) -> tuple[str, ...]:
    channels = _configured_channels(model, _channel_names(formats.get("inputs"), "image"))
    if channels:
        return channels
    raise ModelInvalid(
        f"The metadata of the model {model.name!r} doesn't say what its input channels are: name "
        f"them in order under models.{model.name}.channels in config.yaml, such as [T1, T2]."
    )


def _configured_channels(model: ModelSettings, own: tuple[str, ...]) -> tuple[str, ...]:
    if model.channels and own and len(model.channels) != len(own):
        raise ModelInvalid(
            f"config.yaml: models.{model.name}.channels: expected {len(own)} names, as the model "
            f"has ({', '.join(own)}), got {len(model.channels)}."
        )
    return model.channels or own


def _check_options(model: ModelSettings) -> None:
    problems = []
    for key, value in model.options.items():
        kind = MODEL_OPTIONS.get(key)
        if kind is None:
            problems.append(f"expected one of {', '.join(MODEL_OPTIONS)}, got {key!r}")
        elif not kind.is_good(value):
            problems.append(f"{key}: expected {kind.expected}, got {value!r}")
    if problems:
        where = f"config.yaml: models.{model.name}.options: "
        raise ModelInvalid("\n".join(where + problem for problem in problems))


def _channel_names(formats: Any, preferred: str) -> tuple[str, ...]:
    if not isinstance(formats, dict) or not formats:
        return ()
    described = formats.get(preferred) or next(iter(formats.values()))
    definition = described.get("channel_def") if isinstance(described, dict) else None
    if not isinstance(definition, dict) or not definition:
        return ()
    try:
        ordered = sorted(definition.items(), key=lambda item: int(item[0]))
    except ValueError as error:
        raise ModelInvalid(
            f"The keys of channel_def must be numbers, got {list(definition)}."
        ) from error
    return tuple(str(name) for _, name in ordered)
