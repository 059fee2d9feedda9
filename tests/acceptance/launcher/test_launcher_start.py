"""The start script, a real virtual environment and real processes, under an awkward path.

The checkout is a small one without requirements, so that no test needs the network; its `worker`
says what it was given and ends as it is told.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]

WORKER = """
import json, os, signal, sys, time
from pathlib import Path

seen = Path(os.environ["SEEN"])

def note(**values):
    with seen.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values, ensure_ascii=False) + "\\n")

note(arguments=sys.argv[1:], cwd=os.getcwd(), prefix=sys.prefix, utf8=sys.flags.utf8_mode)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: note(signal=int(number)))
end = time.monotonic() + float(os.environ.get("SECONDS", "0"))
while time.monotonic() < end and "signal" not in seen.read_text(encoding="utf-8"):
    time.sleep(0.05)
time.sleep(float(os.environ.get("LINGER", "0")))
sys.exit(int(os.environ.get("CODE", "0")))
"""

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="the batch file does this on Windows"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("한글 폴더") / "x y 'z'"
    (root / "worker").mkdir(parents=True)
    for name in ("launcher.py", "start_worker.sh"):
        shutil.copy2(REPOSITORY / name, root / name)
    (root / "setup.py").write_text('REQUIREMENTS = {"": [], "worker": []}\n')
    (root / "constraints.txt").write_text("")
    (root / "worker" / "__init__.py").write_text("")
    (root / "worker" / "__main__.py").write_text(WORKER)
    return root


class Place:
    """A folder to start from, and what the worker noted there."""

    def __init__(self, checkout: Path, cwd: Path) -> None:
        self.script = checkout / "start_worker.sh"
        self.cwd = cwd
        self.seen = cwd / "seen.jsonl"
        # A trap: what lies where the user stands must not be imported.
        (cwd / "worker.py").write_text("raise SystemExit('the wrong worker')")

    def environ(self, **more: str) -> dict[str, str]:
        return {**os.environ, "SEEN": str(self.seen), "LC_ALL": "C", **more}

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.script), *arguments],
            cwd=self.cwd,
            env=self.environ(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **more: str) -> tuple[int, str]:
        with self.start(*arguments, **more) as process:
            output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def notes(self) -> list[dict[str, object]]:
        if not self.seen.exists():
            return []
        return [json.loads(line) for line in self.seen.read_text(encoding="utf-8").splitlines()]

    def wait_for_notes(self, count: int) -> None:
        end = time.monotonic() + 60
        while len(self.notes()) < count:
            assert time.monotonic() < end, self.notes()
            time.sleep(0.05)


@pytest.fixture
def place(checkout: Path, tmp_path: Path) -> Place:
    return Place(checkout, tmp_path)


def test_it_sets_up_and_starts_from_anywhere_and_then_in_no_time(
    place: Place, checkout: Path
) -> None:
    shutil.rmtree(checkout / ".venv", ignore_errors=True)
    code, output = place.run("doctor", "a b", "한글", CODE="78")
    assert code == 78
    assert "Set up." in output
    (note,) = place.notes()
    assert note == {
        "arguments": ["doctor", "a b", "한글"],
        "cwd": str(place.cwd),
        "prefix": str(checkout / ".venv"),
        "utf8": 1,
    }

    began = time.monotonic()
    assert place.run("doctor") == (0, "")
    assert time.monotonic() - began < 5


def test_the_command_named_in_messages_is_in_the_environment(place: Place, checkout: Path) -> None:
    place.run("doctor")
    command = checkout / ".venv" / "bin" / "mri-worker"
    subprocess.run([command, "models", "list"], env=place.environ(), check=True, cwd=place.cwd)
    assert place.notes()[-1]["arguments"] == ["models", "list"]


def test_an_environment_broken_halfway_is_mended(place: Place, checkout: Path) -> None:
    place.run("doctor")
    (checkout / "var" / "setup-in-progress").touch()
    (checkout / ".venv" / "segmentation-setup.json").unlink()
    shutil.rmtree(next((checkout / ".venv" / "lib").glob("python*")) / "site-packages" / "pip")
    code, output = place.run("doctor")
    assert (code, "made anew" in output) == (0, True)


def test_two_starts_at_once_set_up_one_after_the_other(place: Place, checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv", ignore_errors=True)
    with place.start("doctor") as first, place.start("doctor") as second:
        outputs = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    assert sum("Set up." in output for output in outputs) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_signal_reaches_the_worker_once_and_its_end_is_awaited(
    place: Place, number: signal.Signals
) -> None:
    place.run("doctor")
    with place.start("run", SECONDS="60", LINGER="0.5") as process:
        place.wait_for_notes(2)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert [note["signal"] for note in place.notes()[2:]] == [number]


def test_ctrl_c_on_a_terminal_reaches_the_worker_once(place: Place) -> None:
    place.run("doctor")
    # `script` would need a program; a pseudo-terminal of our own is Ctrl-C as the kernel sends it.
    code = (
        "import os, pty, sys\n"
        "pid, terminal = pty.fork()\n"
        "if pid == 0:\n"
        "    os.execv(sys.argv[1], sys.argv[1:])\n"
        "sys.stdin.readline()\n"
        "os.write(terminal, b'\\x03')\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(place.script), "run"],
        cwd=place.cwd,
        env=place.environ(SECONDS="60", LINGER="0.5"),
        stdin=subprocess.PIPE,
        text=True,
    ) as process:
        place.wait_for_notes(2)
        process.communicate("now\n", timeout=60)
    assert process.returncode == 0
    assert [note["signal"] for note in place.notes()[2:]] == [signal.SIGINT]


def test_broken_engine_is_started_again_until_it_is_stopped(place: Place) -> None:
    place.run("doctor")
    with place.start("run", CODE="70") as process:
        place.wait_for_notes(3)  # the first of "run" and, seconds later, its second
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert "starts again in 5 s" in output
    assert process.returncode in (70, 128 + signal.SIGTERM)


def test_a_folder_that_takes_no_files_is_said_in_one_sentence(
    place: Place, checkout: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("launcher.py", "start_worker.sh", "setup.py", "constraints.txt"):
        shutil.copy2(checkout / name, bare / name)
    # A file where a folder must go refuses every user, root as well.
    (bare / "var").write_text("")
    place.script = bare / "start_worker.sh"
    code, output = place.run("doctor")
    assert code == 1
    assert "could not write" in output
    assert "Traceback" not in output
