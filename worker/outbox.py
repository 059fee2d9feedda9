"""What this worker has taken and not yet handed back, as folders that outlive the process.

``<work_dir>/jobs/<lease id>/`` holds, in the order in which they come to be:

- ``lease.json``   before the claim is sent: a lost answer can be asked for again
- ``job.json``     before the work starts: a restart knows what was given up
- ``inputs/``      the images, deleted once there is a result
- ``outputs/``     the artifacts
- ``result.json``  or ``failure.json``: the end, ready to be delivered

Which of them exist says what is to be done. Nothing is deleted before the site has it.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worker.core.errors import DiskFull, WorkerError
from worker.core.job import CaseResult, Job
from worker.durable import (
    make_folder,
    move,
    remove_folder,
    sync_file,
    sync_folder,
    write_json,
)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an attempt failed, as the site is told."""

    request_id: str
    code: str
    message: str
    is_retryable: bool

    @classmethod
    def of(cls, request_id: str, error: WorkerError) -> Failure:
        """Make it from an error that carries its own decision."""
        return cls(
            request_id=request_id,
            code=error.code,
            message=error.message,
            is_retryable=error.is_retryable,
        )


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A result and the SHA-256 of each of its artifacts."""

    request_id: str
    result: CaseResult
    artifacts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One folder of the outbox."""

    folder: Path

    @property
    def lease_id(self) -> str:
        """The lease under which the work is done: the folder's name."""
        return self.folder.name

    @property
    def inputs_dir(self) -> Path:
        """Where the images go."""
        return self.folder / "inputs"

    @property
    def outputs_dir(self) -> Path:
        """Where the artifacts go."""
        return self.folder / "outputs"

    def job(self) -> Job | None:
        """Give what was granted, None before the answer came."""
        body = _read(self.folder / "job.json")
        return None if body is None else Job.from_json(body)

    def end(self) -> Finished | Failure | None:
        """Give the result or the failure, None while there is neither."""
        body = _read(self.folder / "result.json")
        if body is not None:
            return Finished(
                request_id=body["request_id"],
                result=CaseResult.from_json(body["result"]),
                artifacts=body["artifacts"],
            )
        body = _read(self.folder / "failure.json")
        return None if body is None else Failure(**body)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    body = json.loads(text)
    if not isinstance(body, dict):
        raise TypeError(f"{path.name} is no JSON object")
    return body


class Outbox:
    """The folders of one worker; no two processes use the same."""

    def __init__(self, work_dir: Path) -> None:
        self._jobs = work_dir / "jobs"
        self._refused = work_dir / "refused"
        self._trash = work_dir / "trash"

    def open(self) -> None:
        """Make the folders, and finish deletions that a crash interrupted."""
        for folder in (self._jobs, self._refused, self._trash):
            make_folder(folder)
        for left in self._trash.iterdir():
            remove_folder(left)

    def entries(self) -> list[Entry]:
        """Give every entry, oldest first."""
        folders = [path for path in self._jobs.iterdir() if path.is_dir()]
        return [Entry(folder=path) for path in sorted(folders, key=_age)]

    def refused(self) -> list[Entry]:
        """Give what the site would not take."""
        if not self._refused.is_dir():
            return []
        return [Entry(folder=path) for path in sorted(self._refused.iterdir()) if path.is_dir()]

    def finished_since(self) -> list[float]:
        """Give since when each result or failure waits for its delivery, as wall clock seconds."""
        since = []
        for pattern in ("*/result.json", "*/failure.json"):
            for path in self._jobs.glob(pattern):
                with suppress(OSError):  # delivered meanwhile
                    since.append(path.stat().st_mtime)
        return since

    def begin(self) -> Entry:
        """Write down a new lease, before it is asked for."""
        lease_id = str(uuid.uuid4())
        folder = self._jobs / lease_id
        make_folder(folder)
        try:
            write_json(folder / "lease.json", {"id": lease_id})
        except DiskFull:
            remove_folder(folder)
            raise
        return Entry(folder=folder)

    def save_job(self, entry: Entry, job: Job) -> None:
        """Write down what was granted, before the work starts."""
        write_json(entry.folder / "job.json", job.to_json())

    def finish(self, entry: Entry, finished: Finished) -> None:
        """Keep a result for good: the artifacts first, then the file that says they are whole."""
        for name in finished.artifacts:
            sync_file(entry.outputs_dir / name)
        sync_folder(entry.outputs_dir)
        body = {
            "request_id": finished.request_id,
            "result": finished.result.to_json(),
            "artifacts": dict(finished.artifacts),
        }
        try:
            write_json(entry.folder / "result.json", body)
        except DiskFull:
            # The images are not needed any more, and take the room that the result wants.
            remove_folder(entry.inputs_dir)
            write_json(entry.folder / "result.json", body)
        remove_folder(entry.inputs_dir)

    def fail(self, entry: Entry, failure: Failure) -> None:
        """Keep a failure until the site knows of it; neither images nor masks are needed."""
        try:
            write_json(entry.folder / "failure.json", asdict(failure))
        except DiskFull:
            for folder in (entry.inputs_dir, entry.outputs_dir):
                remove_folder(folder)
            write_json(entry.folder / "failure.json", asdict(failure))
        remove_folder(entry.inputs_dir)

    def drop(self, entry: Entry) -> None:
        """Delete an entry; a crash in between leaves all of it or nothing of it."""
        self._trash.mkdir(exist_ok=True)
        gone = self._trash / f"{entry.lease_id}.{uuid.uuid4().hex[:8]}"
        try:
            move(entry.folder, gone)
        except FileNotFoundError:
            return
        except OSError:
            # On Windows a folder can't be moved while a file in it is open.
            gone = entry.folder
        remove_folder(gone)

    def refuse(self, entry: Entry, error: WorkerError) -> Entry:
        """Put aside what the site would not take, with its reason; a person must look."""
        body = {"code": error.code, "message": error.message}
        write_json(entry.folder / "refused.json", body)
        target = self._refused / entry.lease_id
        if target.exists():
            shutil.rmtree(target)
        move(entry.folder, target)
        sync_folder(self._refused)
        return Entry(folder=target)

    def take_back(self, codes: frozenset[str]) -> list[Entry]:
        """Queue again what was refused for one of these reasons, such as an old token."""
        taken = []
        for entry in self.refused():
            if (_read(entry.folder / "refused.json") or {}).get("code") in codes:
                target = self._jobs / entry.lease_id
                move(entry.folder, target)
                taken.append(Entry(folder=target))
        return taken


def _age(folder: Path) -> tuple[float, str]:
    try:
        return (folder.stat().st_mtime, folder.name)
    except OSError:
        return (0.0, folder.name)
