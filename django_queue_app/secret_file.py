"""Secrets that a site makes for itself once and keeps in its data folder."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def read_or_create(path: Path) -> str:
    """Return the secret kept in `path`; make it, readable by its owner only, if there is none.

    Parameters
    ----------
    path : Path
        File with one line of text.

    Returns
    -------
    str
        At least 256 random bits when it was made here.
    """
    if not path.exists():
        _create(path)
    return path.read_text(encoding="ascii").strip()


def read(path: Path) -> str | None:
    """Return the secret kept in `path`, or None; make none."""
    return path.read_text(encoding="ascii").strip() if path.exists() else None


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(48) + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        # Several processes may start at once: the first one's secret stays, whole.
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        draft.replace(path)
        return
    draft.unlink()
