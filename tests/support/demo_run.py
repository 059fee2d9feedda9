"""Start `./start_worker.sh demo` and read what it prints."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Two cores, shared with whatever else the tests started.
LONGEST_S = 600


class Demo:
    """A running demonstration and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self.process = process
        self._output = output

    def text(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def wait_for(self, words: str) -> None:
        end = time.monotonic() + LONGEST_S
        while words not in self.text():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < end, self.text()
            time.sleep(0.2)

    def found(self, pattern: str) -> str:
        match = re.search(pattern, self.text())
        assert match, self.text()
        return match.group(1)


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[Demo]:
    output = folder / "console.txt"
    with (
        output.open("w", encoding="utf-8") as stream,
        subprocess.Popen(
            [str(REPOSITORY / "start_worker.sh"), "demo", "--folder", str(folder), *options],
            cwd=folder,  # from anywhere
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        try:
            yield Demo(process, output)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
