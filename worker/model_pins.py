"""Which exact files of a model a person agreed to run: SHA-256 pins in ``models.lock.json``.

A bundle's configuration, a TorchScript and a ``.pt2`` file are programs: whoever can change one
runs code on this machine. So every program and weight file is hashed, `models add` writes the
hashes down, and a model whose files differ is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worker.core.errors import ModelInvalid, SettingsError
from worker.durable import move

LOCK_FILE = "models.lock.json"
_LOCK_FORMAT = 1

# What a bundle's configuration can read or import. Anything else in the folder (docs, licence,
# earlier outputs) can't change what runs.
_HASHED_FOLDERS = ("configs", "models", "scripts")
_PROGRAM_SUFFIXES = {".py", ".pyc", ".pyd", ".so", ".dll", ".pt", ".pt2", ".pth", ".ts"}
_SKIPPED_FOLDERS = {"__pycache__", ".git", ".cache"}


@dataclass(frozen=True, kw_only=True)
class Pin:
    """The files of a model as they were when a person added it."""

    version: str
    sha256: str
    files: Mapping[str, str]  # path inside the model, with forward slashes -> SHA-256


def hash_files(model_path: Path) -> dict[str, str]:
    """Hash every program and weight file of a model.

    Parameters
    ----------
    model_path : Path
        A bundle folder, or one TorchScript or ``torch.export`` file (its YAML is hashed too).

    Returns
    -------
    dict of str to str
        Path inside the model, with forward slashes on every system -> SHA-256; sorted.
    """
    return {name: _sha256(path) for name, path in sorted(_program_files(model_path))}


def digest(files: Mapping[str, str]) -> str:
    """Give one SHA-256 over `hash_files`: that of its lines as ``sha256sum`` would print them."""
    lines = "".join(f"{files[name]}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def read_pins(config_path: Path) -> dict[str, Pin]:
    """Read the pins beside a configuration file; none where nothing was added yet."""
    path = lock_path(config_path)
    if not path.exists():
        return {}
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return {name: Pin(**pin) for name, pin in body["models"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{path}: not readable as the list of added models ({error}); delete it and run "
            "'mri-worker models add' again"
        ) from error


def write_pin(config_path: Path, name: str, pin: Pin) -> Path:
    """Pin one model, keeping the others, so that a crash leaves the old file or the new one."""
    pins = {**read_pins(config_path), name: pin}
    body = {"format": _LOCK_FORMAT, "models": {key: asdict(pins[key]) for key in sorted(pins)}}
    path = lock_path(config_path)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(body, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    move(temporary, path)
    return path


def lock_path(config_path: Path) -> Path:
    """Give the place of the pins that belong to a configuration file."""
    return config_path.parent / LOCK_FILE


def check_pin(name: str, files: Mapping[str, str], pin: Pin | None) -> None:
    """Raise ModelInvalid unless the files are those that were added."""
    if pin is None:
        raise ModelInvalid(
            f"The model {name!r} runs code and nobody has agreed to it on this machine yet: look "
            f"at it, then run 'mri-worker models add {name}'.",
            code="model_not_added",
        )
    if digest(files) != pin.sha256:
        raise ModelInvalid(
            f"The model {name!r} has changed since it was added ({_changes(pin.files, files)}): "
            f"if that was meant, run 'mri-worker models add {name}' again.",
            code="model_changed",
        )


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    changed = [f"{name} changed" for name in new if name in old and old[name] != new[name]]
    added = [f"{name} is new" for name in new if name not in old]
    gone = [f"{name} is gone" for name in old if name not in new]
    found = changed + added + gone
    rest = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + rest


def _program_files(model_path: Path) -> Iterator[tuple[str, Path]]:
    if model_path.is_dir():
        yield from _bundle_files(model_path)
        return
    if not model_path.is_file():
        raise ModelInvalid(
            f"There is no model at {model_path}: check its path in config.yaml (or MODEL_PATH).",
            code="model_not_found",
        )
    yield model_path.name, model_path
    beside = description_beside(model_path)
    if beside is not None:
        yield beside.name, beside


def description_beside(model_path: Path) -> Path | None:
    """Give the YAML file that describes a TorchScript or ``torch.export`` file, if there is one."""
    candidates = (model_path.with_suffix(suffix) for suffix in (".yaml", ".yml"))
    return next((path for path in candidates if path.is_file()), None)


def _bundle_files(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - _SKIPPED_FOLDERS)
        for subfolder in subfolders:
            # os.walk doesn't follow it, so its content would run without being hashed.
            if (Path(folder) / subfolder).is_symlink():
                raise ModelInvalid(
                    f"{Path(folder) / subfolder} is a link to a folder, whose content can't be "
                    "pinned: put a copy of the folder there."
                )
        for name in names:
            path = Path(folder) / name
            relative = path.relative_to(root)
            is_hashed = relative.parts[0] in _HASHED_FOLDERS and len(relative.parts) > 1
            if is_hashed or path.suffix.lower() in _PROGRAM_SUFFIXES:
                yield relative.as_posix(), path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pin_of(version: str, files: Mapping[str, str]) -> Pin:
    """Make the pin for files that were just hashed."""
    return Pin(version=version, sha256=digest(files), files=dict(files))


def pins_as_json(pins: Mapping[str, Pin]) -> dict[str, Any]:
    """Give pins as plain values, for `--json`."""
    return {name: asdict(pin) for name, pin in pins.items()}
