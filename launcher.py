#!/usr/bin/env python3
"""Sets this folder up and starts what is asked for. Needs nothing but Python.

Usage: start_worker.sh [COMMAND ...]          (Windows: start_worker_http.bat [COMMAND ...])

  run              the worker: takes requests from the site in config.yaml (without a COMMAND too);
                   started again when the engine broke (exit code 70)
  demo [--keep]    site, worker and a sample on this machine, from a request to the mask
  test [ARGS]      the tests (ARGS go to pytest)
  setup [EXTRA]    only the set-up; extras: worker, site, test, dev
  doctor, segment, models, once, ...
                   given to the worker's program as they are

The first start creates .venv here and installs the versions pinned in constraints.txt, checked
against the hashes in requirements.lock; what pip says is kept in var/log/setup.log. Later starts
need no network.

Environment:
  TORCH_INDEX_URL  an additional package index for PyTorch, as pytorch.org names it for your CUDA
                   version. Windows needs it for a GPU; Linux installs the CUDA build by itself.
  PIP_INDEX_URL, PIP_CERT, HTTPS_PROXY
                   where pip looks, and how it gets there, behind a hospital's proxy.
  WORKER_LANG      the language of messages, en or ko; the system's without it.

This file runs on old Pythons as far as it takes to find a new one, so it uses no newer syntax.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

if TYPE_CHECKING:  # these names take subscripts only on newer Pythons
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Say = Callable[[str], None]
    Run = Callable[[Sequence[str], IO[str], Mapping[str, str], Say], tuple[int, str]]

ROOT = Path(__file__).resolve().parent
IS_WINDOWS = os.name == "nt"
OLDEST_PYTHON = (3, 11)
# 3.11 first: it is what the pins are tested with.
KNOWN_PYTHONS = ("3.11", "3.12", "3.13")
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_ENGINE_BROKEN = 70  # CONTRACT 3: "restart me"
EXIT_INTERRUPTED = 130
# PyTorch's CPU build and what stands beside it take 1.9 GB installed and as much again while pip
# unpacks. The CUDA build takes more; pip's own message is explained if that runs out.
NEEDED_BYTES = 4 * 10**9
RESTART_FIRST_S, RESTART_MOST_S = 5.0, 300.0
# A worker that ran this long had a working engine: its next fault starts the backoff anew.
RESTART_CALM_S = 600.0


class LauncherError(Exception):
    """Nothing can be started; the message is the sentence a person reads."""


# --- Python ---------------------------------------------------------------------------------------


def ensure_python(arguments: Sequence[str]) -> None:
    """Hand over to a newer Python if this one is too old.

    Raises
    ------
    LauncherError
        There is none on this machine.
    """
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return
    found = find_python()
    if found is None:
        raise LauncherError(
            "Python 3.11 or newer is needed and was not found (this one is {}.{}). Install it from "
            "python.org or with your system's packages, then start this again.".format(
                *sys.version_info[:2]
            )
        )
    hand_over([found, str(Path(__file__).resolve()), *arguments], os.environ)


def find_python() -> str | None:
    """Return the path of a Python that is new enough, or None."""
    for version in KNOWN_PYTHONS:
        command = ["py", "-" + version] if IS_WINDOWS else ["python" + version]
        path = _ask_python([*command, "-c", "import sys; print(sys.executable)"])
        if path:
            return path
    return None


def _ask_python(command: list[str]) -> str | None:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


# --- What is to be installed ----------------------------------------------------------------------


def read_requirements(setup_py: Path) -> dict[str, list[str]]:
    """Read the REQUIREMENTS literal of setup.py without running it."""
    tree = ast.parse(setup_py.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "REQUIREMENTS" for target in node.targets
        ):
            found: dict[str, list[str]] = ast.literal_eval(node.value)
            return found
    raise LauncherError(f"{setup_py} holds no REQUIREMENTS: this checkout is damaged, clone again.")


def wanted_requirements(requirements: Mapping[str, Sequence[str]], extras: set[str]) -> list[str]:
    """Return the requirements of the extras, each once; the site alone needs no base.

    The base is the worker's, torch included, and a hospital's site does without.
    """
    unknown = sorted(extras - set(requirements))
    if unknown:
        known = ", ".join(sorted(name for name in requirements if name))
        raise LauncherError(f"Unknown extra {', '.join(unknown)}; there are {known}.")
    names = ["", *sorted(extras)] if extras - {"site"} else sorted(extras)
    return list(dict.fromkeys(wanted for name in names for wanted in requirements[name]))


def locked_requirements(lock: str, extras: set[str]) -> str:
    """Return the part of requirements.lock that the extras need, as pip reads it.

    Each block ends with a line such as `# for: site, worker`; "worker" is the base.
    """
    wanted = extras | ({"worker"} if extras - {"site"} else set())
    kept = []
    for block in re.findall(r"^[^\s#][\s\S]*?^ +# for: .*\n", lock, flags=re.MULTILINE):
        needed_for = block.rsplit("# for: ", 1)[1].strip().split(", ")
        if wanted & set(needed_for):
            kept.append(block)
    return "".join(kept)


def torch_pin(constraints: str) -> str | None:
    """Return the constraint line that pins torch, without its marker, or None."""
    found = re.search(r"^torch==[^\s;]+", constraints, flags=re.MULTILINE)
    return found.group(0) if found else None


@dataclass(frozen=True)
class Stamp:
    """What a finished set-up holds; it lies in the virtual environment."""

    fingerprint: str
    extras: tuple[str, ...]
    torch_index: str = ""

    def to_text(self) -> str:
        """Return the file's text."""
        return json.dumps(
            {
                "fingerprint": self.fingerprint,
                "extras": sorted(self.extras),
                "torch_index": self.torch_index,
            }
        )

    @classmethod
    def from_text(cls, text: str) -> Stamp | None:
        """Return the stamp, or None where the text is torn or of another version."""
        try:
            values = json.loads(text)
            return cls(
                fingerprint=str(values["fingerprint"]),
                extras=tuple(values["extras"]),
                torch_index=str(values["torch_index"]),
            )
        except (ValueError, KeyError, TypeError):
            return None


# --- Why it failed --------------------------------------------------------------------------------

# The first pattern found in pip's output decides.
REASONS = (
    (
        r"No space left on device|\[Errno 28\]|not enough space on the disk",
        "The disk is full. Make room (about 4 GB, 10 GB with CUDA) and start this again.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|certificate verify failed",
        "The package index's certificate is not trusted here. Behind a hospital's proxy, set "
        "PIP_CERT to the file of its certificate authority and start this again.",
    ),
    (
        r"HASHES .*DO NOT MATCH|IncompleteRead|Connection broken|BadZipFile",
        "A download arrived damaged, or is not the file that was published. Start this again; if "
        "it stays so, the package index (PIP_INDEX_URL) gives other files than requirements.lock "
        "names, and nothing of it was installed.",
    ),
    (
        r"407 Proxy Authentication",
        "The proxy wants a password: set HTTPS_PROXY=http://user:password@proxy:port.",
    ),
    (
        r"Failed to establish a new connection|Temporary failure in name resolution"
        r"|getaddrinfo failed|Name or service not known|Network is unreachable|Max retries exceeded"
        r"|ProxyError|Read timed out|Connection refused",
        "The package index can't be reached. The first start needs the network (or PIP_INDEX_URL, "
        "or HTTPS_PROXY); start this again when it is there.",
    ),
    (
        r"Permission denied|\[Errno 13\]|WinError 5\]",
        "A file in .venv can't be written. Stop whatever uses it, or give this user the folder.",
    ),
    (
        r"No matching distribution found for (\S+)|Could not find a version that satisfies the "
        r"requirement (\S+)",
        "There is no build of {0} for this Python and system. Python 3.11, 3.12 or 3.13 (64 bit) "
        "on Linux or Windows is needed.",
    ),
    (
        r"ensurepip is not available|No module named ensurepip|No module named venv",
        "Python's venv module is not installed. On Debian and Ubuntu: sudo apt install "
        "python3-venv.",
    ),
)


def explain(output: str) -> str:
    """Return the sentence that says why pip or venv failed, from what it printed."""
    for pattern, sentence in REASONS:
        found = re.search(pattern, output)
        if found:
            named = [group for group in found.groups() if group]
            return sentence.format(named[0] if named else "")
    errors = [line for line in output.splitlines() if line.lower().startswith("error")]
    return f"pip says: {errors[-1].strip()}" if errors else "The installation failed."


def explain_os_error(error: OSError, root: Path) -> str:
    """Return the sentence for a file that could not be written during the set-up."""
    if error.errno == errno.ENOSPC:
        return "The disk is full. Make room (about 4 GB, 10 GB with CUDA) and start this again."
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{root} can't be written by this user. Copy the folder to a place that can."
    return f"The set-up could not write in {root}: {error.strerror}."


# --- The console ----------------------------------------------------------------------------------


def in_words(text: str) -> str:
    """Say a text in the reader's language, as the worker does; in English on an old Python."""
    if sys.version_info[:2] < OLDEST_PYTHON:
        return text
    with contextlib.suppress(ImportError):
        from worker.language import KOREAN, choose, in_korean

        return in_korean(text) if choose() == KOREAN else text
    return text


def say(text: str) -> None:
    """Print one line for a person."""
    print(in_words(text), file=sys.stderr, flush=True)


class Progress:
    """One line that moves on a terminal; nothing but the steps' names elsewhere."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._began = clock()
        self._text = ""
        self._done = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        if self._is_terminal:
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._is_terminal:
            self._ticker.join()
            self._stream.write("\r\033[K")
            self._stream.flush()

    def step(self, name: str) -> None:
        """Begin a step, told on every kind of output."""
        self._stream.write(("\r\033[K" if self._is_terminal else "") + in_words(name) + "\n")
        self._stream.flush()

    def line(self, text: str) -> None:
        """Take a line of pip's output; only what is being fetched or installed is shown."""
        found = re.match(r"\s*(Collecting|Downloading|Installing|Using cached) .*", text)
        if found:
            self._text = text.strip()

    def _tick(self) -> None:
        while not self._done.wait(0.5):
            width = shutil.get_terminal_size().columns
            shown = f"  {self._clock() - self._began:4.0f} s  {self._text}"
            self._stream.write("\r\033[K" + shown[: width - 1])
            self._stream.flush()


def run_logged(
    command: Sequence[str], log: IO[str], environ: Mapping[str, str], on_line: Say
) -> tuple[int, str]:
    """Run a command; its output goes to the log and, line by line, to `on_line`.

    Returns
    -------
    code : int
    output : str
        The last 400 lines.
    """
    log.write("\n$ {}\n".format(" ".join(command)))
    log.flush()
    lines: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=dict(environ),
    ) as process:
        try:
            for line in process.stdout or ():
                log.write(line)
                log.flush()
                lines = [*lines[-399:], line]
                on_line(line)
        except BaseException:
            process.terminate()
            raise
    return process.returncode, "".join(lines)


# --- The set-up -----------------------------------------------------------------------------------


class SetUp:
    """The virtual environment of one checkout.

    Parameters
    ----------
    root : Path
        The checkout; `.venv` and `var` lie in it.
    environ : Mapping
        The caller's environment.
    run : callable
        Runs a command; injected by tests.
    """

    def __init__(
        self,
        root: Path,
        environ: Mapping[str, str],
        run: Run = run_logged,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
        stream: IO[str] = sys.stderr,
    ) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.log_path = root / "var" / "log" / "setup.log"
        self._environ = environ
        self._run = run
        self._free_bytes = free_bytes
        self._stream = stream
        self._lock_path = root / "requirements.lock"
        self._stamp_path = self.venv / "segmentation-setup.json"
        # Lies beside .venv while pip works in it: what is found with it is half an environment.
        self._marker = root / "var" / "setup-in-progress"

    @property
    def python(self) -> Path:
        """The virtual environment's interpreter."""
        return self.venv / ("Scripts/python.exe" if IS_WINDOWS else "bin/python")

    def ensure(self, extras: set[str]) -> Path:
        """Set up what is missing; return the interpreter to use.

        Raises
        ------
        LauncherError
            With a sentence that says what to do.
        """
        if self._is_complete(extras):
            return self.python
        try:
            with self._lock():
                # Another start may have done it while this one waited.
                if not self._is_complete(extras):
                    self._install(extras | set(self._installed_extras()))
        except OSError as error:
            raise LauncherError(explain_os_error(error, self.root)) from error
        return self.python

    def _is_complete(self, extras: set[str]) -> bool:
        stamp = self._read_stamp()
        return (
            stamp is not None
            and stamp.fingerprint == self._fingerprint()
            and extras <= set(stamp.extras)
            and not self._wants_other_torch(stamp)
            and self.python.exists()
        )

    def _read_stamp(self) -> Stamp | None:
        try:
            return Stamp.from_text(self._stamp_path.read_text(encoding="utf-8"))
        except OSError:
            return None

    def _installed_extras(self) -> Sequence[str]:
        stamp = self._read_stamp()
        return stamp.extras if stamp else ()

    def _wants_other_torch(self, stamp: Stamp) -> bool:
        wanted = self._environ.get("TORCH_INDEX_URL", "")
        return bool(wanted) and wanted != stamp.torch_index

    def _fingerprint(self) -> str:
        """Digest of everything that decides what the environment must hold."""
        digest = hashlib.sha256()
        for name in ("setup.py", "constraints.txt"):
            digest.update((self.root / name).read_bytes() + b"\0")
        if self._lock_path.exists():
            digest.update(self._lock_path.read_bytes() + b"\0")
        # What _write_command wrote names the folder.
        digest.update(str(self.root).encode() + b"\0" + self._venv_version().encode())
        return digest.hexdigest()

    def _venv_version(self) -> str:
        """Return the environment's own Python version as major.minor, or this one's."""
        with contextlib.suppress(OSError):
            text = (self.venv / "pyvenv.cfg").read_text(encoding="utf-8")
            found = re.search(r"^version\s*=\s*(\d+\.\d+)", text, flags=re.MULTILINE)
            if found:
                return found.group(1)
        return "{}.{}".format(*sys.version_info[:2])

    def _install(self, extras: set[str]) -> None:
        # A misspelt extra is found before anything is taken apart for it.
        wanted_requirements(read_requirements(self.root / "setup.py"), extras)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._check_space()
        with self.log_path.open("w", encoding="utf-8") as log, Progress(self._stream) as progress:
            progress.step(f"Setting up {self.venv} (once; this takes some minutes) ...")
            self._make_venv(log, progress)
            self._stamp_path.unlink(missing_ok=True)
            self._marker.write_text("", encoding="utf-8")
            self._install_packages(extras, log, progress)
            self._write_command()
            self._write_stamp(extras)
            self._marker.unlink()
            progress.step("Set up.")

    def _check_space(self) -> None:
        is_fresh = not self.python.exists()
        free = self._free_bytes(self.root)
        if is_fresh and free < NEEDED_BYTES:
            raise LauncherError(
                f"The disk of {self.root} has {free / 1e9:.1f} GB free; the set-up needs about "
                f"{NEEDED_BYTES / 1e9:.0f} GB (10 GB with CUDA). Make room and start this again."
            )

    def _make_venv(self, log: IO[str], progress: Progress) -> None:
        stamp = self._read_stamp()
        if self._is_usable(log, progress) and not (stamp and self._wants_other_torch(stamp)):
            return
        if self.venv.exists():
            progress.step("What an interrupted or older set-up left in .venv is made anew.")
        self._do([sys.executable, "-m", "venv", "--clear", str(self.venv)], log, progress)

    def _is_usable(self, log: IO[str], progress: Progress) -> bool:
        """Say whether pip may go on in the environment that is there."""
        if self._marker.exists() or not self.python.exists():
            return False
        code = f"import sys, pip; sys.exit(sys.version_info < {OLDEST_PYTHON!r})"
        try:
            result, _ = self._run(
                [str(self.python), "-I", "-X", "utf8", "-c", code],
                log,
                self._pip_environ(),
                progress.line,
            )
        except OSError:
            return False
        return result == 0

    def _install_packages(self, extras: set[str], log: IO[str], progress: Progress) -> None:
        if self._lock_path.exists():
            self._install_locked(extras, log, progress)
        constraints = self.root / "constraints.txt"
        wanted = wanted_requirements(read_requirements(self.root / "setup.py"), extras)
        pip = [str(self.python), "-m", "pip", "install", "--progress-bar", "off"]
        pip += ["-c", str(constraints)]
        torch = torch_pin(constraints.read_text(encoding="utf-8"))
        if torch and any(re.match(r"torch\b(?!-)", name) for name in wanted):
            # Alone, and before a package that asks for "torch" can bring a newer one, gigabytes of
            # it. What is installed from the lock was told not to bring anything.
            progress.step(f"Installing PyTorch ({torch}) ...")
            index = self._environ.get("TORCH_INDEX_URL", "")
            extra_index = ["--extra-index-url", index] if index else []
            self._do([*pip, *extra_index, torch], log, progress)
        if wanted:
            progress.step(
                f"Installing {len(wanted)} more packages ({', '.join(sorted(extras))}) ..."
            )
            self._do([*pip, *wanted], log, progress)

    def _install_locked(self, extras: set[str], log: IO[str], progress: Progress) -> None:
        """Install what the lock has hashes of; pip takes no file with another one.

        What comes after it finds nearly all of its requirements installed. It brings torch, whose
        build the machine decides, and what only another system needs.
        """
        text = locked_requirements(self._lock_path.read_text(encoding="utf-8"), extras)
        path = self.root / "var" / "requirements.txt"
        path.write_text(text, encoding="utf-8")
        progress.step(f"Installing {text.count('# for: ')} packages by their hashes ...")
        pip = [str(self.python), "-m", "pip", "install", "--progress-bar", "off"]
        self._do([*pip, "--no-deps", "--require-hashes", "-r", str(path)], log, progress)

    def _do(self, command: Sequence[str], log: IO[str], progress: Progress) -> None:
        code, output = self._run(command, log, self._pip_environ(), progress.line)
        if code == 0:
            return
        # pip undoes or leaves whole what it can't finish: no need to begin anew for that.
        self._marker.unlink(missing_ok=True)
        raise LauncherError(f"{explain(output)} (Details: {self.log_path})")

    def _pip_environ(self) -> dict[str, str]:
        kept = {k: v for k, v in self._environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        # A user's pip.conf may say "user = true", which fails in a virtual environment.
        return {**kept, "PYTHONUTF8": "1", "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def _write_command(self) -> None:
        """Put `mri-worker`, as messages and documents name it, into the environment."""
        folder = self.python.parent
        if IS_WINDOWS:
            text = f'@echo off\r\ncall "{self.root}\\start_worker_http.bat" %*\r\n'
            (folder / "mri-worker.cmd").write_text(text, encoding="utf-8", newline="")
            return
        quoted = str(self.root / "start_worker.sh").replace("'", "'\\''")
        path = folder / "mri-worker"
        path.write_text(f"#!/bin/sh\nexec '{quoted}' \"$@\"\n", encoding="utf-8")
        path.chmod(0o755)

    def _write_stamp(self, extras: set[str]) -> None:
        index = self._environ.get("TORCH_INDEX_URL", "")
        stamp = Stamp(self._fingerprint(), tuple(sorted(extras)), index)
        torn_free = self._stamp_path.with_suffix(".tmp")
        torn_free.write_text(stamp.to_text(), encoding="utf-8")
        torn_free.replace(self._stamp_path)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep two starts from setting up one folder at the same time."""
        path = self.root / "var" / "setup.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as handle:
            if not _try_lock(handle):
                say("Another start is setting this folder up; waiting for it ...")
                while not _try_lock(handle):
                    time.sleep(0.5)
            yield


def _try_lock(handle: IO[str]) -> bool:
    """Lock an open file for this process; the system unlocks it when the process ends."""
    try:
        if sys.platform == "win32":
            import msvcrt

            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


# --- Starting -------------------------------------------------------------------------------------


def child_environ(environ: Mapping[str, str], setup: SetUp) -> dict[str, str]:
    """Return the environment in which the project's own programs run."""
    folder = str(setup.python.parent)
    path = environ.get("PATH", "")
    kept = {name: value for name, value in environ.items() if name != "PYTHONHOME"}
    return {
        **kept,
        "PATH": folder + os.pathsep + path if path else folder,
        "PYTHONPATH": str(setup.root),
        # A folder named `worker` where the user happens to stand must not be imported.
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
        "VIRTUAL_ENV": str(setup.venv),
    }


def hand_over(command: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Become another program; on Windows, which can't, run it and end as it ends."""
    if not IS_WINDOWS:
        os.execve(command[0], list(command), dict(environ))  # noqa: S606
    for name in ("SIGINT", "SIGBREAK"):
        # The console gives Ctrl-C and Ctrl-Break to the other program as well: it decides.
        signal.signal(getattr(signal, name), lambda *_: None)
    sys.exit(subprocess.call(list(command), env=dict(environ)))


class Supervisor:
    """Runs the worker, passes stop signals on, and starts it again when its engine broke.

    Parameters
    ----------
    start : callable
        Starts the worker.
    clock, tell : callable
        Injected by tests.
    """

    def __init__(
        self,
        start: Callable[[], subprocess.Popen[bytes]],
        clock: Callable[[], float] = time.monotonic,
        tell: Say = say,
    ) -> None:
        self._start = start
        self._clock = clock
        self._tell = tell
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def listen(self) -> None:
        """Take this process's stop signals."""
        names = ("SIGINT", "SIGBREAK") if IS_WINDOWS else ("SIGINT", "SIGTERM", "SIGHUP")
        for name in names:
            signal.signal(getattr(signal, name), self.pass_on)

    def pass_on(self, number: int, _frame: object = None) -> None:
        """Give a stop signal to the worker, which finishes or gives back what it holds."""
        self._stop.set()
        process = self._process
        # On Windows the console has given it to the worker already.
        if process is not None and not IS_WINDOWS:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def run(self) -> int:
        """Run until the worker ends for a reason that a restart doesn't mend."""
        delay = RESTART_FIRST_S
        while True:
            began = self._clock()
            code = self._run_once()
            if code != EXIT_ENGINE_BROKEN or self._stop.is_set():
                return code
            if self._clock() - began >= RESTART_CALM_S:
                delay = RESTART_FIRST_S
            self._tell(
                f"The engine broke (exit code 70); the worker starts again in {delay:.0f} s."
            )
            if self.wait(delay):
                return code
            delay = min(2 * delay, RESTART_MOST_S)

    def _run_once(self) -> int:
        self._process = self._start()
        if self._stop.is_set():  # it came between the two
            self._process.terminate()
        code = self._process.wait()
        self._process = None
        return 128 - code if code < 0 else code

    def wait(self, seconds: float) -> bool:
        """Wait; return at once and True when a stop signal comes."""
        end = self._clock() + seconds
        # In short steps: Windows runs no signal handler inside a long wait.
        while self._clock() < end and not self._stop.is_set():
            self._stop.wait(min(0.2, seconds))
        return self._stop.is_set()


def start_worker(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the worker so that a Ctrl-C reaches it once, through its supervisor.

    In the terminal's own process group it would come twice, and the second stop signal means
    "at once, finish nothing".
    """
    if IS_WINDOWS:
        return subprocess.Popen(list(command), env=dict(environ))
    return subprocess.Popen(
        list(command), env=dict(environ), stdin=subprocess.DEVNULL, process_group=0
    )


def supervise(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the worker under a supervisor that listens to this process's signals."""
    supervisor = Supervisor(lambda: start_worker(command, environ))
    supervisor.listen()
    return supervisor.run()


# --- Commands -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a command line asks for."""

    extras: tuple[str, ...]
    module: str | None
    arguments: tuple[str, ...] = ()
    is_supervised: bool = False
    is_at_root: bool = False


def plan(arguments: Sequence[str]) -> Plan:
    """Turn a command line into what is to be installed and started."""
    command, rest = (arguments[0], tuple(arguments[1:])) if arguments else ("run", ())
    if command == "demo":
        return Plan(("site", "worker"), "demo", rest)
    if command == "test":
        return Plan(("dev", "site", "test", "worker"), "pytest", rest, is_at_root=True)
    if command == "setup":
        return Plan(rest or ("worker",), None)
    given = (command, *rest)
    is_run = command == "run" and not {"--help", "-h"} & set(rest)
    return Plan(("worker",), "worker", given, is_supervised=is_run)


def main(arguments: Sequence[str]) -> int:
    """Do what the command line asks for; return the exit code."""
    if arguments and arguments[0] in ("-h", "--help", "help"):
        print(in_words(__doc__ or ""))
        return 0
    ensure_python(arguments)
    if os.pathsep in str(ROOT):
        raise LauncherError(f"Python can't use a folder with '{os.pathsep}' in its path: {ROOT}")
    asked = plan(arguments)
    setup = SetUp(ROOT, os.environ)
    python = setup.ensure(set(asked.extras))
    if asked.module is None:
        return 0
    environ = child_environ(os.environ, setup)
    if asked.is_at_root:
        os.chdir(str(ROOT))
    command = [str(python), "-m", asked.module, *asked.arguments]
    if asked.is_supervised:
        return supervise(command, environ)
    hand_over(command, environ)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def entry() -> int:
    """Run `main`, with every expected failure told in one sentence."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    # A set-up that is told to end stops pip as well and can be repeated.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return main(sys.argv[1:])
    except LauncherError as error:
        say(str(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        say("Interrupted. Start this again to go on.")
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(entry())
