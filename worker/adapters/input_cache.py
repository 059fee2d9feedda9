"""Images that were fetched once, by their content, so that the same series is not fetched twice.

``<work_dir>/cache/ab/abcdef…`` holds the bytes with that SHA-256. Nothing here is ever trusted:
what is taken is hashed again, so a crash or a bad disk costs a download and never a wrong image.
Nothing here may fail a case either: where the cache can't be read or written, the site is asked.

A file's access time says when it was last used, its modification time when it was fetched.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from worker.durable import file_sha256
from worker.settings_inputs import CacheSettings

logger = logging.getLogger(__name__)

FOLDER = "cache"
_DIGEST = re.compile(r"[0-9a-f]{64}")
# A copy in the making is younger than this; an older one was left by a crash.
_OLDEST_COPY_S = 3600.0
# Sweeping reads every entry's times; an idle worker needn't do it at each poll.
_SWEEP_EVERY_S = 600.0
# Evicting a little more than needed keeps the next images from evicting one by one.
_FILL_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class CacheState:
    """What a cache holds; ages in seconds, None where it is empty."""

    files: int
    size_bytes: int
    oldest_s: float | None


@dataclass(frozen=True, kw_only=True)
class _Entry:
    path: Path
    size_bytes: int
    fetched_at: float
    used_at: float


class InputCache:
    """The cache of one work folder, shared by the threads that fetch.

    Parameters
    ----------
    work_dir : Path
    settings : CacheSettings
    now : callable
        Seconds since the epoch, since files carry such times.
    """

    def __init__(
        self, work_dir: Path, settings: CacheSettings, *, now: Callable[[], float] = time.time
    ) -> None:
        self.folder = work_dir / FOLDER
        self._settings = settings
        self._now = now
        self._lock = threading.Lock()
        self._size_bytes = 0
        self._swept_at: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether anything is kept at all."""
        return self._settings.is_on

    def open(self) -> None:
        """Delete what is too old, too much, or half; all of it where the cache is off."""
        with self._lock:
            self._sweep()

    def tidy(self) -> None:
        """Do what `open` does, if that was long ago; called while nothing else is to do."""
        if self._swept_at is None or self._now() - self._swept_at >= self._sweep_every_s:
            self.open()

    def take(self, sha256: str, size_bytes: int, target: Path) -> bool:
        """Put the bytes with this digest at `target`, and tell whether they were there.

        The target is a hard link where the file system has them, else a copy, so that the job's
        own file outlives an eviction.
        """
        source = self._path(sha256)
        if not self._settings.is_on or source is None or self._is_too_old(source):
            return False
        try:
            _link_or_copy(source, target)
            if target.stat().st_size == size_bytes and file_sha256(target).hex() == sha256.lower():
                self._touch(source)
                return True
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                logger.warning("cache_not_readable", extra={"reason": error.strerror})
            target.unlink(missing_ok=True)
            return False
        logger.warning("cache_entry_damaged", extra={"sha256": sha256})
        target.unlink()
        self._delete(source)
        return False

    def put(self, sha256: str, source: Path) -> None:
        """Keep a file whose digest was just checked, and evict what was not used for longest."""
        target = self._path(sha256)
        if not self._settings.is_on or target is None:
            return
        try:
            size = source.stat().st_size
            if size > self._settings.max_bytes or target.exists():
                return
            self._make_folder(target.parent)
            _keep_whole(source, target, self.folder)
            stamp = self._now()
            os.utime(target, (stamp, stamp))
        except OSError as error:
            logger.warning("cache_not_written", extra={"reason": error.strerror})
            return
        with self._lock:
            self._size_bytes += size
            if self._size_bytes > self._settings.max_bytes:
                self._evict_down_to(int(self._settings.max_bytes * _FILL_SHARE))

    def make_room(self, needed_bytes: int) -> None:
        """Evict until the disk has this much free, or the cache is empty."""
        with self._lock:
            missing = needed_bytes - self._free_bytes()
            if missing > 0:
                self._evict_until(lambda: self._free_bytes() >= needed_bytes)

    def state(self) -> CacheState:
        """Count what is there."""
        entries = list(self._entries())
        return CacheState(
            files=len(entries),
            size_bytes=sum(entry.size_bytes for entry in entries),
            oldest_s=max((self._now() - entry.fetched_at for entry in entries), default=None),
        )

    def clear(self) -> CacheState:
        """Delete everything and tell what is gone; a case that runs keeps its own images."""
        with self._lock:
            before = self.state()
            shutil.rmtree(self.folder, ignore_errors=True)
            left = self.state()
            self._size_bytes = left.size_bytes
        return CacheState(
            files=before.files - left.files,
            size_bytes=before.size_bytes - left.size_bytes,
            oldest_s=before.oldest_s,
        )

    @property
    def _sweep_every_s(self) -> float:
        return min(_SWEEP_EVERY_S, max(1.0, self._settings.max_age_s / 4))

    def _path(self, sha256: str) -> Path | None:
        digest = sha256.lower()
        # The digest comes from outside, and a path is made of it.
        return self.folder / digest[:2] / digest if _DIGEST.fullmatch(digest) else None

    def _is_too_old(self, path: Path) -> bool:
        try:
            return self._now() - path.stat().st_mtime > self._settings.max_age_s
        except OSError:
            return False

    def _touch(self, path: Path) -> None:
        """Note the use; when it was fetched stays."""
        with contextlib.suppress(OSError):
            os.utime(path, (self._now(), path.stat().st_mtime))

    def _make_folder(self, folder: Path) -> None:
        # Images of patients: for this user alone. Windows takes the rights of the folder above.
        for one in (self.folder, folder):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _sweep(self) -> None:
        self._swept_at = self._now()
        if not self._settings.is_on:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        with contextlib.suppress(OSError):
            self.folder.chmod(0o700)
        for left in self.folder.glob("*.copy"):
            with contextlib.suppress(OSError):
                if self._now() - left.stat().st_mtime > _OLDEST_COPY_S:
                    left.unlink()
        entries = list(self._entries())
        self._size_bytes = sum(entry.size_bytes for entry in entries)
        for entry in entries:
            if self._now() - entry.fetched_at > self._settings.max_age_s:
                self._evict(entry)
        if self._size_bytes > self._settings.max_bytes:
            self._evict_down_to(self._settings.max_bytes)

    def _evict_down_to(self, size_bytes: int) -> None:
        self._evict_until(lambda: self._size_bytes <= size_bytes)

    def _evict_until(self, is_enough: Callable[[], bool]) -> None:
        # Counted anew: another process may have cleared the cache meanwhile.
        entries = sorted(self._entries(), key=lambda entry: entry.used_at)
        self._size_bytes = sum(entry.size_bytes for entry in entries)
        for entry in entries:
            if is_enough():
                return
            self._evict(entry)

    def _evict(self, entry: _Entry) -> None:
        if self._delete(entry.path):
            self._size_bytes -= entry.size_bytes

    def _delete(self, path: Path) -> bool:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return False  # Windows: somebody reads it; the next sweep gets it
        return True

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.folder.parent).free

    def _entries(self) -> Iterator[_Entry]:
        for path in self.folder.glob("??/*"):
            try:
                status = path.stat()
            except OSError:
                continue  # gone since it was listed
            yield _Entry(
                path=path,
                size_bytes=status.st_size,
                fetched_at=status.st_mtime,
                used_at=status.st_atime,
            )


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        # No hard links here: FAT, some network shares, another disk.
        shutil.copyfile(source, target)


def _keep_whole(source: Path, target: Path, folder: Path) -> None:
    """Put a file in place at once; a crash leaves nothing, or a copy that no digest names."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        temporary = folder / f"{uuid.uuid4().hex}.copy"
        try:
            shutil.copyfile(source, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
