"""The bytes of one file, read once for every look at them."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

# Larger than any single slice. A larger file is read in parts, so that it isn't held twice.
AT_ONCE_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class FileBytes:
    """A file, with its bytes where it is small."""

    path: Path
    data: bytes | None

    @classmethod
    def of(cls, path: Path) -> FileBytes:
        """Read a file, or leave it where it is when it is large."""
        is_small = path.stat().st_size <= AT_ONCE_BYTES
        return cls(path=path, data=path.read_bytes() if is_small else None)

    def source(self) -> BinaryIO | Path:
        """Give what pydicom reads from."""
        return self.path if self.data is None else BytesIO(self.data)

    def head(self, count: int) -> bytes:
        """Give its first bytes."""
        if self.data is not None:
            return self.data[:count]
        with self.path.open("rb") as file:
            return file.read(count)

    def tail(self, count: int) -> bytes:
        """Give its last bytes."""
        if self.data is not None:
            return self.data[-count:]
        with self.path.open("rb") as file:
            file.seek(-min(count, self.path.stat().st_size), 2)
            return file.read()

    def holds(self, part: bytes) -> bool:
        """Whether these bytes are somewhere in it."""
        return part in (self.path.read_bytes() if self.data is None else self.data)
