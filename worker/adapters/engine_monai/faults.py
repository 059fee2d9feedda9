"""Tells apart what torch raises: too little memory, a broken device, or a model that can't run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from worker.core.errors import EngineBroken, EngineOutOfMemory, ModelInvalid, WorkerError

# torch gives the CPU allocator's and cuBLAS's failures no class of their own, and TorchScript wraps
# every exception in a RuntimeError, so these words are all there is to go by.
_MEMORY_WORDS = (
    "out of memory",
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "bad allocation",
    "std::bad_alloc",
)
_DEVICE_WORDS = ("CUDA error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "device-side assert")


@contextmanager
def mapped_faults(step: str, device: torch.device) -> Iterator[None]:
    """Raise what torch, MONAI and a bundle's own code raise as an error that carries the decision.

    Parameters
    ----------
    step : str
        What was being done, to complete "... while <step>".
    device : torch.device

    Raises
    ------
    EngineOutOfMemory, EngineBroken, ModelInvalid
    """
    let_warnings_pass()
    try:
        yield
    except WorkerError:
        raise
    except Exception as error:
        raise _mapped(error, step, device) from error


def let_warnings_pass() -> None:
    """Let no warning of torch, MONAI or a bundle become an error, however Python was started.

    The filters are the process's, shared by threads that read and write other cases meanwhile, so
    they are added and never put back: whoever restored an older list would take them from another.
    Adding them again changes nothing.
    """
    warnings.simplefilter("default")
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    # The BraTS bundle's Invertd has nothing to invert, and MONAI says so for each case.
    warnings.filterwarnings("ignore", "inverse has been called", UserWarning)
    # MONAI 1.6 renames optional_packages_version, which every published bundle still has.
    warnings.filterwarnings("ignore", "Detected deprecated name", UserWarning)


def _mapped(error: BaseException, step: str, device: torch.device) -> WorkerError:
    chain = tuple(_causes(error))
    if any(_is_memory(cause) for cause in chain):
        return EngineOutOfMemory(
            f"The memory of {_name(device)} ran out while {step}: close other programs that use "
            "it, or run this model on a larger device."
        )
    if any(_is_device_fault(cause) for cause in chain):
        return EngineBroken(f"{_name(device)} failed while {step}: {_first_line(chain[-1])}")
    root = chain[-1]
    return ModelInvalid(
        f"The model failed while {step}: {type(root).__name__}: {_first_line(root)}",
        code="model_failed",
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    # MONAI wraps a transform's error ("applying transform ..."): the cause is what happened.
    while error is not None:
        yield error
        error = error.__cause__


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _MEMORY_WORDS)


def _is_device_fault(error: BaseException) -> bool:
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _DEVICE_WORDS)


def _name(device: torch.device) -> str:
    return "the computer" if device.type == "cpu" else str(device)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
