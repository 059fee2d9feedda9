"""The ``models`` section of ``config.yaml``: where each model lies and what its labels mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from worker.core.postprocess import CONNECTIVITIES, KEEP_LARGEST, Postprocess
from worker.core.segments import SEG_TYPES, Code, SegmentSpec, ordered_by_label
from worker.settings_reader import Section, as_flag, as_number, as_text

SEQUENCE_CHECKS = ("warn", "refuse", "off")
REGISTRATIONS = ("off", "rigid", "always")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """One model as configured; the catalogue checks it against its files.

    Parameters
    ----------
    name : str
        The key under ``models``.
    path : Path
        A bundle folder, or a TorchScript or ``torch.export`` file. It may not exist.
    channels : tuple of str
        Which sequence feeds which channel; empty leaves it to the model's own metadata.
    segments : tuple of SegmentSpec
        What each label means, in ascending label value; empty until a person filled them in.
    options : mapping
        Settings of the engine for this model alone.
    intended_use : str, optional
        Shown with every result.
    sequence_check : str
        What becomes of series whose headers contradict the channels: warn, refuse or off.
    registration : str
        Whether series are moved onto the main one: off, rigid (only those of another frame of
        reference) or always.
    seg_type : str
        How the DICOM SEG holds the segments: binary or labelmap.
    postprocess : Postprocess
        Done to the label map after the model's own postprocessing.
    """

    name: str
    path: Path
    channels: tuple[str, ...] = ()
    segments: tuple[SegmentSpec, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    intended_use: str | None = None
    sequence_check: str = "warn"
    registration: str = "off"
    seg_type: str = "binary"
    postprocess: Postprocess = field(default_factory=Postprocess)

    def at(self, path: Path) -> ModelSettings:
        """Give the same model in another place."""
        return replace(self, path=path)


def read_models(root: Section, base: Path) -> dict[str, ModelSettings]:
    """Read every model; `base` is where relative paths start."""
    section = root.section("models")
    found = {}
    for name, value in root.items("models"):
        inner = section.inner(name, value)
        if inner is None:
            continue
        if not _NAME.fullmatch(str(name)):
            section.misnamed(name, "a model name of letters, digits, '.', '_' and '-'")
            continue
        found[str(name)] = _model(str(name), inner, base)
    return found


def _model(name: str, section: Section, base: Path) -> ModelSettings:
    path = section.path("path", None, base=base)
    if path is None:
        section.missing("path", "the folder or file of the model")
    settings = ModelSettings(
        name=name,
        path=path or base,
        channels=section.parsed("channels", (), _as_names, "a list of sequence names"),
        segments=_segments(section),
        options=dict(section.items("options")),
        intended_use=section.text("intended_use", None),
        sequence_check=_word(section, "sequence_check", "warn", SEQUENCE_CHECKS),
        registration=_word(section, "registration", "off", REGISTRATIONS),
        seg_type=_word(section, "seg_type", "binary", SEG_TYPES),
        postprocess=_postprocess(section.section("postprocess")),
    )
    section.end()
    return settings


def _word(section: Section, name: str, default: str, words: tuple[str, ...]) -> str:
    """Read one of a few words; YAML reads a bare ``off`` as false."""

    def parse(value: Any) -> str | None:
        word = "off" if value is False else value
        return word if word in words else None

    return section.parsed(name, default, parse, "one of " + ", ".join(words))


def _postprocess(section: Section) -> Postprocess:
    settings = Postprocess(
        fill_holes=section.flag("fill_holes", False),
        keep_largest=_word(section, "keep_largest", "off", KEEP_LARGEST),
        min_volume_ml=section.parsed(
            "min_volume_ml", 0.0, as_number(0, 1e6), "a number of millilitres > 0"
        ),
        connectivity=section.parsed(
            "connectivity",
            26,
            lambda value: value if value in CONNECTIVITIES else None,
            "6 or 26",
        ),
    )
    section.end()
    return settings


def _as_names(value: Any) -> tuple[str, ...] | None:
    names = [as_text(item) for item in value] if isinstance(value, list) else [None]
    return tuple(name for name in names if name) if all(names) else None


def _segments(section: Section) -> tuple[SegmentSpec, ...]:
    labels = section.section("segments")
    found = []
    for value, body in section.items("segments"):
        inner = labels.inner(value, body)
        if inner is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
            labels.misnamed(value, "a label value from 1 to 65535")
            continue
        found.append(_segment(value, inner))
    return ordered_by_label(spec for spec in found if spec is not None)


def _segment(value: int, section: Section) -> SegmentSpec | None:
    label = section.text("label", None)
    if label is None:
        section.missing("label", "what the segment is called")
    category = _code(section, "category", is_required=True)
    kind = _code(section, "type", is_required=True)
    optional: dict[str, Any] = {
        "type_modifier": _code(section, "type_modifier"),
        "anatomic_region": _code(section, "anatomic_region"),
        "color_rgb": section.parsed("color", None, _as_color, "three whole numbers 0..255"),
        "counts_as_tumor": section.parsed("counts_as_tumor", True, as_flag, "true or false"),
        "label_ko": section.text("label_ko", None),
    }
    section.end()
    if label is None or category is None or kind is None:
        return None
    return SegmentSpec(label_value=value, label=label, category=category, type=kind, **optional)


def _code(section: Section, name: str, *, is_required: bool = False) -> Code | None:
    if section.raw(name) is None:
        if is_required:
            section.missing(name, "a code {value, scheme, meaning}; codes are never guessed")
        return None
    inner = section.section(name)
    parts = {key: inner.text(key, None) for key in ("value", "scheme", "meaning")}
    inner.end()
    for key, part in parts.items():
        if part is None:
            inner.missing(key, "a text")
    value, scheme, meaning = parts["value"], parts["scheme"], parts["meaning"]
    if value is None or scheme is None or meaning is None:
        return None
    return Code(value=value, scheme=scheme, meaning=meaning)


def _as_color(value: Any) -> tuple[int, int, int] | None:
    if not isinstance(value, list) or len(value) != 3:
        return None
    is_good = all(isinstance(part, int) and not isinstance(part, bool) for part in value)
    if not is_good or not all(0 <= part <= 255 for part in value):
        return None
    return (value[0], value[1], value[2])
