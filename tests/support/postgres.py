"""A PostgreSQL server of our own: in a temporary folder, on a Unix socket, gone after the tests.

    python -m tests.support.postgres pytest tests/integration/queue

runs a command with `DATABASE_URL` naming a fresh database of such a server.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

_START_LIMIT_S = 60
_SERVER_USER = "postgres"


def find_programs() -> Path | None:
    """Return the folder of PostgreSQL's server programs; None where it is not installed."""
    places = [Path(where).resolve().parent for where in [shutil.which("initdb")] if where]
    places += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda folder: [int(part) for part in folder.parent.name.split(".")],
        reverse=True,
    )
    return next((one for one in places if (one / "initdb").exists()), None)


def why_missing() -> str:
    """Say why there can be no server here; empty if there can."""
    if find_programs() is None:
        return "PostgreSQL's server programs are not installed (apt install postgresql)"
    if _is_root() and _server_account() is None:
        return f"the tests run as root and there is no user {_SERVER_USER} to run the server as"
    return ""


class Cluster:
    """One server and its databases.

    Parameters
    ----------
    settings : mapping of str to str, optional
        Lines of `postgresql.conf`, e.g. `{"fsync": "off"}`.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        programs = find_programs()
        if programs is None:
            raise RuntimeError(why_missing())
        self._programs = programs
        # pytest's own folders are closed to other users, and a socket's path has 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self._initialise(settings or {})

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def url(self, dbname: str) -> str:
        """Return the address of a database for `DATABASE_URL`."""
        return f"postgresql://{_SERVER_USER}@{quote(str(self.folder), safe='')}/{dbname}"

    def create_database(self, dbname: str = "") -> str:
        """Make an empty database; return its address."""
        dbname = dbname or f"db{os.getpid()}_{next(self._numbers)}"
        self._run("createdb", "-h", str(self.folder), "-U", _SERVER_USER, dbname)
        return self.url(dbname)

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        if self.is_running:
            return
        data = self.folder / "data"
        # A server that was killed leaves this behind, and another process may have its number now.
        (data / "postmaster.pid").unlink(missing_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_as_server(), str(self._programs / "postgres"), "-D", str(data)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        end = time.monotonic() + _START_LIMIT_S
        while not self._answers():
            if not self.is_running or time.monotonic() > end:
                self.stop(is_immediate=True)
                log_text = (self.folder / "server.log").read_text()
                raise RuntimeError(f"PostgreSQL did not start: {log_text[-2000:]}")
            time.sleep(0.05)

    def stop(self, *, is_immediate: bool = False) -> None:
        """Stop the server: with its clients cut off, or, at once, as a power cut would."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGQUIT if is_immediate else signal.SIGINT)
        try:
            process.wait(_START_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Stop the server and delete its folder."""
        self.stop(is_immediate=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _initialise(self, settings: Mapping[str, str]) -> None:
        account = _server_account() if _is_root() else None
        if account is not None:
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        data = self.folder / "data"
        self._run(
            "initdb", "--auth=trust", f"--username={_SERVER_USER}", "--encoding=UTF8",
            "--no-locale", "--no-sync", "-D", str(data),
        )  # fmt: skip
        lines = {
            "listen_addresses": "''",
            "unix_socket_directories": f"'{self.folder}'",
            "max_connections": "200",
            "shared_buffers": "32MB",
            **settings,
        }
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in lines.items())

    def _answers(self) -> bool:
        check = [str(self._programs / "pg_isready"), "-q", "-h", str(self.folder)]
        return subprocess.run(check, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*_as_server(), str(self._programs / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")


def _is_root() -> bool:
    return os.geteuid() == 0


def _server_account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(_SERVER_USER)
    except KeyError:
        return None


def _as_server() -> list[str]:
    """Return what a command begins with to run as the server's user: it refuses to be root."""
    if not _is_root():
        return []
    # setpriv becomes the program, so a signal to our child reaches the server itself.
    return ["setpriv", f"--reuid={_SERVER_USER}", f"--regid={_SERVER_USER}", "--init-groups"]


def main(command: list[str]) -> int:
    """Run a command on a fresh database; return its exit code."""
    if not command or why_missing():
        print(why_missing() or __doc__, file=sys.stderr)
        return 2
    with Cluster({"fsync": "off"}) as cluster:
        cluster.start()
        environment = {**os.environ, "DATABASE_URL": cluster.create_database()}
        if command[0] == "pytest":
            command = [sys.executable, "-m", *command]
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
