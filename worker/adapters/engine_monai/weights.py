"""Reads weights as data: safetensors, or ``.pt`` by `weights_only`; TorchScript as a program."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from worker.adapters.engine_monai.faults import let_warnings_pass
from worker.core.errors import ModelInvalid

# Where checkpoints keep the network among optimiser and epoch, and what wrappers prepend to names.
_HOLDERS = ("model", "state_dict", "network", "net", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")

StateDict = dict[str, torch.Tensor]


def load_weights(
    network: torch.nn.Module, path: Path, *, holder: str = "model", is_strict: bool = True
) -> None:
    """Load a state dict into a network.

    Parameters
    ----------
    network : torch.nn.Module
    path : Path
        Not a TorchScript (`is_torchscript`).
    holder : str
        Name under which a checkpoint keeps this network, as `CheckpointLoader` has it.
    is_strict : bool
        Whether every name must match, as `CheckpointLoader` demands by default.

    Raises
    ------
    ModelInvalid
        Not weights, or those of another network.
    """
    state = _without_prefix(_network_state(_read(path), holder, path), set(network.state_dict()))
    try:
        result = network.load_state_dict(state, strict=is_strict)
    except RuntimeError as error:
        raise ModelInvalid(
            f"The weights in {path.name} are not those of the network that the configuration "
            f"describes: {_summary(network, state)}."
        ) from error
    if len(result.missing_keys) == len(network.state_dict()):
        raise ModelInvalid(f"None of the weights in {path.name} belong to the network.")


def load_torchscript(path: Path, device: torch.device) -> torch.nn.Module:
    """Load a TorchScript program: the caller has checked its pin."""
    if not is_torchscript(path):
        raise ModelInvalid(
            f"{path.name} holds no TorchScript program (weights alone, perhaps): save the network "
            "with torch.jit.script(network).save(...), or make a MONAI bundle of it."
        )
    # torch 2.13 names torch.export as its successor; the files in the wild are these.
    let_warnings_pass()
    try:
        load: Callable[..., torch.nn.Module] = torch.jit.load
        return _Program(load(str(path), map_location=device))
    except (RuntimeError, ValueError) as error:
        raise ModelInvalid(
            f"{path.name} can't be read as a TorchScript: {_first_line(error)}."
        ) from error


class _Program(torch.nn.Module):
    """A compiled network as a module that takes forward hooks, which compiled ones refuse."""

    def __init__(self, program: torch.nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.program(*inputs)


def load_exported(path: Path, device: torch.device) -> torch.nn.Module:
    """Load a ``torch.export`` program (reading one runs code: the caller has checked its pin)."""
    # It warns of a damaged file with a whole stack trace, and we have a sentence for that.
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    try:
        program = torch.export.load(path)
    except (RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ModelInvalid(
            f"{path.name} can't be read by torch.export: it is damaged, or was made by a version "
            f"of torch that {torch.__version__} does not understand; make it again."
        ) from error
    return program.module().to(device)


def _first_line(error: Exception) -> str:
    """Give what torch says first; its C++ stack and its guesses follow in later lines."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(". ")


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript, whatever its name: a zip archive that holds code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _read(path: Path) -> Any:
    if _is_safetensors(path):
        try:
            return load_file(path, device="cpu")
        except SafetensorError as error:
            raise ModelInvalid(f"{path.name} is damaged: {error}.") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelInvalid(
            f"{path.name} holds more than weights, so reading it would run code: save the "
            "network's state_dict alone, or as safetensors."
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise ModelInvalid(f"{path.name} is damaged or no weights file: {error}.") from error


def _is_safetensors(path: Path) -> bool:
    # By content, since some .pth files in the wild are safetensors: an 8-byte length, then JSON.
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:9] == b"{" and start[:2] != b"PK"


def _network_state(checkpoint: Any, holder: str, path: Path) -> StateDict:
    if isinstance(checkpoint, Mapping):
        for name in (holder, *_HOLDERS):
            if isinstance(checkpoint.get(name), Mapping):
                return _network_state(checkpoint[name], holder, path)
        state = {str(key): value for key, value in checkpoint.items() if torch.is_tensor(value)}
        if state:
            return state
    raise ModelInvalid(f"{path.name} holds no weights of a network.")


def _without_prefix(state: StateDict, wanted: set[str]) -> StateDict:
    while not wanted & set(state):
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            return state
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _summary(network: torch.nn.Module, state: StateDict) -> str:
    own = network.state_dict()
    missing, unknown = set(own) - set(state), set(state) - set(own)
    shapes = [key for key in set(own) & set(state) if own[key].shape != state[key].shape]
    return (
        f"{len(missing)} of {len(own)} are missing, {len(unknown)} are unknown, "
        f"{len(shapes)} have another shape"
    )
