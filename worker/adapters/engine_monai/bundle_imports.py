"""Lets a bundle import its own ``scripts``, and keeps two bundles' scripts apart."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path


@contextmanager
def importable(bundle: Path) -> Iterator[None]:
    """Put a bundle's folder first on the import path, and forget its modules afterwards.

    Nearly every bundle with code of its own calls it ``scripts``, so the second one would get the
    first one's. Compiled files are neither read nor written: a ``__pycache__`` isn't pinned.
    """
    root = str(bundle.resolve())
    before = (sys.pycache_prefix, sys.dont_write_bytecode)
    sys.path.insert(0, root)
    with tempfile.TemporaryDirectory() as nowhere:
        sys.pycache_prefix, sys.dont_write_bytecode = nowhere, True
        try:
            yield
        finally:
            sys.pycache_prefix, sys.dont_write_bytecode = before
            sys.path.remove(root)
            _forget_modules(Path(root))


def _forget_modules(root: Path) -> None:
    for name, module in list(sys.modules.items()):
        if any(Path(place).is_relative_to(root) for place in _places(module)):
            del sys.modules[name]


def _places(module: object) -> list[str]:
    # By __spec__: torch puts objects into sys.modules that answer to any attribute name.
    spec = getattr(module, "__spec__", None)
    if not isinstance(spec, ModuleSpec):
        return []
    # A package without __init__.py has no origin, only folders.
    return [spec.origin or "", *(str(place) for place in spec.submodule_search_locations or ())]
