"""The demonstration's processes: started with a log each, stopped whole, never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# A worker told to end finishes or gives back its case; told twice, it ends at once.
_FIRST_STOP_S, _SECOND_STOP_S = 8.0, 5.0
_SAME_PROCESS_S = 1.0


class DemoError(Exception):
    """The demonstration can't go on; the message is the sentence to show."""


@dataclass(frozen=True, kw_only=True)
class Child:
    """A running program of the demonstration."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise DemoError if it has ended."""
        code = self.process.poll()
        if code is not None:
            raise DemoError(
                f"The {self.name} ended with exit code {code}. The end of its log, {self.log}:\n"
                f"{tail(self.log)}"
            )


def tail(log: Path, lines: int = 8) -> str:
    """Return the last lines of a log, indented."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


class Children:
    """The programs of one demonstration, remembered on disk until they are stopped.

    Parameters
    ----------
    state : Path
        Where their process ids are kept, so that a next demonstration can end what a killed one
        left behind.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._children: list[Child] = []

    def end_leftovers(self) -> None:
        """End what an earlier, killed demonstration left running.

        Raises
        ------
        DemoError
            Another demonstration is running.
        """
        try:
            known = json.loads(self._state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if not isinstance(known, dict):
            return
        owner = _find(known.get("owner", {}))
        if owner is not None:
            raise DemoError(
                f"A demonstration is running already (process {owner.pid}, "
                f"{known.get('address', 'starting')}). Use that one, or stop it with Ctrl-C there."
            )
        for one in known.get("children", []):
            process = _find(one)
            if process is not None:
                _end_tree(process)
        self._state.unlink(missing_ok=True)

    def remember(self, address: str = "starting") -> None:
        """Note the running programs and this process as their owner."""
        body = {
            "owner": _identity(os.getpid()),
            "address": address,
            "children": [_identity(child.process.pid) for child in self._children],
        }
        temporary = self._state.with_suffix(".tmp")
        temporary.write_text(json.dumps(body), encoding="utf-8")
        temporary.replace(self._state)

    def start(
        self, name: str, command: Sequence[str], *, environ: Mapping[str, str], log: Path, cwd: Path
    ) -> Child:
        """Start a program that runs until it is stopped."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                list(command),
                cwd=cwd,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # In a group of its own: a Ctrl-C is for the demonstration, which stops it in order.
                process_group=0 if sys.platform != "win32" else None,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        child = Child(name=name, process=process, log=log)
        self._children.append(child)
        return child

    def check(self) -> None:
        """Raise DemoError if one of them has ended."""
        for child in self._children:
            child.check()

    def drop(self, child: Child) -> None:
        """Forget one that has ended."""
        self._children.remove(child)

    def stop(self) -> None:
        """Stop all, the last started first, and forget them."""
        for child in reversed(self._children):
            _stop(child.process)
        self._children.clear()
        self._state.unlink(missing_ok=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for patience_s in (_FIRST_STOP_S, _SECOND_STOP_S):
        if process.poll() is None:
            _ask_to_end(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
            return
    _end_tree(psutil.Process(process.pid))
    process.wait()


def _ask_to_end(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.send_signal(signal.CTRL_BREAK_EVENT)
    else:
        process.terminate()


def _end_tree(root: psutil.Process) -> None:
    """Kill a process and all below it."""
    try:
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=5)


def _identity(pid: int) -> dict[str, float]:
    try:
        return {"pid": pid, "created": psutil.Process(pid).create_time()}
    except psutil.NoSuchProcess:
        return {"pid": pid, "created": 0.0}


def _find(identity: Mapping[str, float]) -> psutil.Process | None:
    """Find a noted process; a later one that got its number is not it."""
    try:
        process = psutil.Process(int(identity["pid"]))
        is_same = abs(process.create_time() - identity["created"]) < _SAME_PROCESS_S
        is_alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except (KeyError, TypeError, ValueError, psutil.Error):
        return None
    return process if is_same and is_alive else None


def run_to_end(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    log: Path,
    cwd: Path,
    timeout_s: float,
    what: str,
) -> str:
    """Run a program that ends by itself; return what it printed.

    Raises
    ------
    DemoError
        It failed or took too long.
    """
    began = time.monotonic()
    try:
        answer = subprocess.run(
            list(command),
            cwd=cwd,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"{what} did not end within {timeout_s:.0f} s; see {log}.") from error
    with log.open("a", encoding="utf-8") as file:
        file.write(f"# {what}: {time.monotonic() - began:.1f} s, exit code {answer.returncode}\n")
        if answer.returncode:
            file.write(answer.stdout)
    if answer.returncode:
        last = "\n".join(f"    {line}" for line in answer.stdout.splitlines()[-8:])
        raise DemoError(f"{what} failed (exit code {answer.returncode}; {log}):\n{last}")
    return answer.stdout
