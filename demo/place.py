"""The demonstration's folder, and the programs of the project run in it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pydicom

from demo.children import Child, Children, DemoError, run_to_end

USER = "doctor"
MODEL = "demo_brain_tumor"
# The order in which the model zoo's BraTS network, and so the bundled one, takes its channels.
CHANNELS = ("T1c", "T1", "T2", "FLAIR")
_TOKEN = re.compile(r"\bmri_[A-Za-z0-9_-]{20,}")
_MANAGE_S = 300.0

# The caller's own site and worker are not this one: their settings stay outside.
_FOREIGN = re.compile(
    r"DATABASE_URL|SECRET_KEY|ALLOWED_HOSTS|CSRF_TRUSTED_ORIGINS|BEHIND_TLS_PROXY|SECURE_.*|DEBUG"
    r"|SESSION_COOKIE_SECURE|DEFAULT_MODEL|MAX_UPLOAD_BYTES|USE_LOCAL_INFERENCE|SEGMENTATION_.*"
    r"|DJANGO_.*|WORKER_TOKEN|POLL_INTERVAL|THRESHOLD|MODEL_PATH|ORTHANC_.*"
)

# One process for both: each start of Django costs a second.
_PREPARE = """
import os
from django.contrib.auth import get_user_model
from django.core.management import call_command
call_command("migrate", interactive=False, verbosity=0)
user, _ = get_user_model().objects.get_or_create(username=os.environ["DEMO_USER"])
user.set_password(os.environ["DEMO_PASSWORD"])
user.is_active = True
user.save()
"""


@dataclass(frozen=True, kw_only=True)
class Access:
    """The tokens of the demonstration's user and worker."""

    user_token: str = field(repr=False)
    worker_token: str = field(repr=False)


def free_port() -> int:
    """Ask the system for a loopback port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Place:
    """The folder of a demonstration.

    Parameters
    ----------
    root : Path
        The checkout.
    folder : Path, optional
        By default `var/demo` of the checkout.
    """

    def __init__(self, root: Path, folder: Path | None = None) -> None:
        self.root = root
        self.folder = (folder or root / "var" / "demo").resolve()
        self.logs = self.folder / "log"
        self.results = self.folder / "result"
        self.state = self.folder / "processes.json"
        self.sample = self.folder / "sample"
        self._access = self.folder / "access.json"

    def make(self) -> None:
        """Make the folders; what is in them is for this user alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.logs.mkdir(exist_ok=True)
        self.results.mkdir(exist_ok=True)

    def wipe(self) -> None:
        """Begin with an empty folder; what is not the demonstration's own stays."""
        for name in ("log", "result", "sample", "site", "worker"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self._access.unlink(missing_ok=True)
        self.make()

    # --- the site's own commands ------------------------------------------------------------------

    def prepare(self, password: str) -> None:
        """Bring the database up to date and give the user this password."""
        more = {"DEMO_USER": USER, "DEMO_PASSWORD": password}
        self._manage("shell", "-c", _PREPARE, what="preparing the database", **more)

    def find_access(self) -> Access:
        """Return the tokens that an earlier start made, or new ones."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Access(**json.loads(self._access.read_text(encoding="utf-8")))
        return self.make_access()

    def make_access(self) -> Access:
        """Make tokens for the user and the worker; older ones end."""
        access = Access(
            user_token=self._make_token("--kind", "user", "--user", USER),
            worker_token=self._make_token("--kind", "worker", "--lane", "lab"),
        )
        self._access.touch(mode=0o600)
        self._access.write_text(json.dumps(asdict(access)), encoding="utf-8")
        return access

    def _make_token(self, *options: str) -> str:
        command = ["segmentation_token", "create", f"demo-{options[1]}", "--replace", *options]
        found = _TOKEN.search(self._manage(*command, what="making a token"))
        if found is None:
            raise DemoError("segmentation_token printed no token.")
        return found.group(0)

    def import_sample(self, tell: Callable[[str], None]) -> set[str]:
        """Generate the sample once and give it to the site; return its SeriesInstanceUIDs."""
        if not self.sample.exists():
            unfinished = self.sample.with_name("sample-in-progress")
            shutil.rmtree(unfinished, ignore_errors=True)
            command = [sys.executable, "-m", "demo.sample", str(unfinished)]
            self._program(command, what="drawing the sample")
            unfinished.rename(self.sample)
            tell("sample drawn")
        self._manage("import_dicom", str(self.sample), what="importing the sample")
        tell("sample imported")
        return self._sample_series()

    def _sample_series(self) -> set[str]:
        folders = {path.parent: path for path in sorted(self.sample.rglob("*.dcm"))}
        return {
            str(pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID)
            for path in folders.values()
        }

    def _manage(self, *arguments: str, what: str, **more: str) -> str:
        return self._program([sys.executable, "manage.py", *arguments], what=what, **more)

    def _program(self, command: list[str], *, what: str, **more: str) -> str:
        return run_to_end(
            command,
            environ=self._environ(**more),
            log=self.logs / "setup.log",
            cwd=self.root,
            timeout_s=_MANAGE_S,
            what=what,
        )

    # --- what keeps running -----------------------------------------------------------------------

    def start_site(self, children: Children) -> tuple[Child, str]:
        """Start the site on a free port; return it and its address."""
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "reference_site.asgi:application"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
        command += ["--timeout-graceful-shutdown", "2"]
        child = children.start(
            "site",
            command,
            environ=self._environ(),
            log=self.logs / "site.log",
            cwd=self.root,
        )
        return child, f"http://127.0.0.1:{port}"

    def start_worker(self, children: Children, address: str, token: str) -> Child:
        """Start the worker beside the site."""
        command = [sys.executable, "-m", "worker", "run"]
        command += ["--config", str(self.root / "config.yaml"), "--lane", "lab"]
        command += ["--work-dir", str(self.folder / "worker"), "--name", "demo-worker"]
        environ = self._environ(DJANGO_API_URL=address, WORKER_TOKEN=token)
        log = self.logs / "worker.log"
        return children.start("worker", command, environ=environ, log=log, cwd=self.root)

    def _environ(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not _FOREIGN.fullmatch(name)}
        return {
            **kept,
            "DJANGO_SETTINGS_MODULE": "reference_site.settings",
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHONPATH": str(self.root),
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "1",
            "SEGMENTATION_DATA_DIR": str(self.folder / "site"),
            "USE_LOCAL_INFERENCE": "true",
            **more,
        }
