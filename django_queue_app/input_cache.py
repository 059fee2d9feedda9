"""Instances as workers get them, kept for a while on the site's own disk.

Only for archives on other machines: reading and pseudonymising a series again for each download
would ask them for everything twice. Named by content and checked when read, so that a file that
was damaged is as good as none. What lies here is pseudonymised unless the site serves originals.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from django_queue_app.conf import conf


@dataclass(frozen=True, kw_only=True)
class Use:
    """How full the cache is."""

    files: int
    bytes: int


def get(sha256: str) -> bytes | None:
    """Return the file with this digest, or None if it is not here."""
    try:
        data = _path(sha256).read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() == sha256:
        return data
    _path(sha256).unlink(missing_ok=True)
    return None


def has(sha256: str) -> bool:
    """Tell whether a file with this digest is here, without reading it."""
    return _path(sha256).exists()


def keep(sha256: str, data: bytes) -> None:
    """Keep a file; a disk that is full keeps none, and nothing depends on it."""
    if not conf.input_cache_bytes or has(sha256):
        return
    path = _path(sha256)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def trim() -> None:
    """Remove what is too old, then the oldest until the rest fits."""
    oldest = time.time() - conf.input_cache_age.total_seconds()
    room = conf.input_cache_bytes
    for path, size_bytes, written_at in sorted(_files(), key=lambda one: -one[2]):
        room -= size_bytes
        if room < 0 or written_at < oldest:
            path.unlink(missing_ok=True)


def clear() -> Use:
    """Remove everything; return what was there."""
    removed = use()
    for path, _, _ in list(_files()):
        path.unlink(missing_ok=True)
    return removed


def use() -> Use:
    """Return how full it is."""
    sizes = [size_bytes for _, size_bytes, _ in _files()]
    return Use(files=len(sizes), bytes=sum(sizes))


def _root() -> Path:
    return conf.data_dir / "cache" / "inputs"


def _path(sha256: str) -> Path:
    return _root() / sha256[:2] / f"{sha256}.dcm"


def _files() -> Iterator[tuple[Path, int, float]]:
    """Yield path, size and time of writing; what another process removes meanwhile is left out."""
    for path in _root().glob("*/*"):
        with suppress(OSError):
            found = path.stat()
            yield path, found.st_size, found.st_mtime
