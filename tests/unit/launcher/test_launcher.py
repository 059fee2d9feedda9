"""The launcher's decisions, with pip and the worker played by hand-written fakes."""

from __future__ import annotations

import ast
import errno
import io
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

import launcher
from launcher import LauncherError, SetUp, Stamp, Supervisor

REPOSITORY = Path(launcher.__file__).parent
FRESH = "Setting up"


class FakePip:
    """Plays venv and pip: makes the interpreter's file, remembers what was asked of it."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.environ: Mapping[str, str] = {}
        self.answer: tuple[int, str] = (0, "")
        self.fail_on = "pip install"

    def __call__(
        self, command: Sequence[str], log: IO[str], environ: Mapping[str, str], on_line: Any
    ) -> tuple[int, str]:
        self.commands.append(list(command))
        self.environ = environ
        words = " ".join(command)
        if "-m venv" in words:
            self._make_venv(Path(command[-1]))
        return self.answer if self.fail_on in words else (0, "")

    def _make_venv(self, path: Path) -> None:
        python = path / ("Scripts/python.exe" if launcher.IS_WINDOWS else "bin/python")
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()
        (path / "pyvenv.cfg").write_text("version = 3.11.7\n")

    def installs(self) -> list[list[str]]:
        return [command for command in self.commands if "install" in command]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "한글 폴더" / "x y"
    root.mkdir(parents=True)
    (root / "setup.py").write_text(
        'REQUIREMENTS = {"": ["torch>=2", "requests"], "worker": [], "site": ["django"]}\n'
    )
    (root / "constraints.txt").write_text("requests==2.34.2\ntorch==2.13.0\n")
    return root


@pytest.fixture
def pip() -> FakePip:
    return FakePip()


def set_up(checkout: Path, pip: FakePip, **environ: str) -> SetUp:
    return SetUp(checkout, environ, run=pip, free_bytes=lambda _: 10**12, stream=io.StringIO())


def test_first_start_installs_the_pinned_torch_alone_and_before_everything_else(
    checkout: Path, pip: FakePip
) -> None:
    set_up(checkout, pip).ensure({"worker"})
    first, second = pip.installs()
    assert first[-1] == "torch==2.13.0"
    assert second[-2:] == ["torch>=2", "requests"]
    for command in (first, second):
        assert command[command.index("-c") + 1] == str(checkout / "constraints.txt")


def test_second_start_runs_nothing(checkout: Path, pip: FakePip) -> None:
    set_up(checkout, pip).ensure({"worker"})
    pip.commands.clear()
    set_up(checkout, pip).ensure({"worker"})
    assert pip.commands == []


def test_second_start_writes_nothing(checkout: Path, pip: FakePip) -> None:
    set_up(checkout, pip).ensure({"worker"})
    before = {path: path.stat().st_mtime_ns for path in checkout.rglob("*")}
    set_up(checkout, pip).ensure({"worker"})
    assert {path: path.stat().st_mtime_ns for path in checkout.rglob("*")} == before


def test_another_extra_is_added_and_the_first_is_kept(checkout: Path, pip: FakePip) -> None:
    set_up(checkout, pip).ensure({"worker"})
    set_up(checkout, pip).ensure({"site"})
    assert pip.installs()[-1][-1] == "django"
    pip.commands.clear()
    set_up(checkout, pip).ensure({"site", "worker"})
    assert pip.commands == []


@pytest.mark.parametrize("name", ["setup.py", "constraints.txt"])
def test_changed_requirements_are_installed_into_the_same_environment(
    checkout: Path, pip: FakePip, name: str
) -> None:
    set_up(checkout, pip).ensure({"worker"})
    pip.commands.clear()
    with (checkout / name).open("a") as file:
        file.write("# newer\n")
    set_up(checkout, pip).ensure({"worker"})
    assert len(pip.installs()) == 2
    assert not any("venv" in command for command in pip.commands)


def test_environment_of_a_killed_set_up_is_made_anew(checkout: Path, pip: FakePip) -> None:
    def killed(*arguments: Any) -> tuple[int, str]:
        if "install" in arguments[0]:
            raise KeyboardInterrupt
        return pip(*arguments)

    with pytest.raises(KeyboardInterrupt):
        SetUp(checkout, {}, run=killed, free_bytes=lambda _: 10**12, stream=io.StringIO()).ensure(
            {"worker"}
        )
    pip.commands.clear()
    set_up(checkout, pip).ensure({"worker"})
    assert pip.commands[0][1:3] == ["-m", "venv"]
    assert "--clear" in pip.commands[0]


def test_failed_download_keeps_what_was_installed(checkout: Path, pip: FakePip) -> None:
    pip.answer = (1, "ERROR: Connection broken: IncompleteRead\n")
    with pytest.raises(LauncherError, match=r"damaged.*setup\.log"):
        set_up(checkout, pip).ensure({"worker"})
    pip.answer = (0, "")
    pip.commands.clear()
    set_up(checkout, pip).ensure({"worker"})
    assert not any("venv" in command for command in pip.commands)


def test_environment_whose_python_is_gone_is_made_anew(checkout: Path, pip: FakePip) -> None:
    setup = set_up(checkout, pip)
    setup.ensure({"worker"}).unlink()
    pip.commands.clear()
    setup.ensure({"worker"})
    assert "venv" in pip.commands[0]


def test_torn_stamp_counts_as_none(checkout: Path, pip: FakePip) -> None:
    setup = set_up(checkout, pip)
    setup.ensure({"worker"})
    (checkout / ".venv" / "segmentation-setup.json").write_text('{"fingerpr')
    pip.commands.clear()
    setup.ensure({"worker"})
    assert len(pip.installs()) == 2


def test_torch_index_is_only_additional_and_a_new_one_replaces_torch(
    checkout: Path, pip: FakePip
) -> None:
    set_up(checkout, pip).ensure({"worker"})
    pip.commands.clear()
    set_up(checkout, pip, TORCH_INDEX_URL="https://index.example/cu1").ensure({"worker"})
    assert "venv" in pip.commands[-3]
    torch, others = pip.installs()
    assert torch[torch.index("--extra-index-url") + 1] == "https://index.example/cu1"
    assert "--extra-index-url" not in others
    pip.commands.clear()
    set_up(checkout, pip).ensure({"worker"})
    assert pip.commands == []


def test_a_users_pip_settings_do_not_break_the_environment(checkout: Path, pip: FakePip) -> None:
    set_up(checkout, pip, PIP_USER="1", PYTHONPATH="/other", PYTHONHOME="/x").ensure({"worker"})
    assert pip.environ["PIP_USER"] == "0"
    assert not {"PYTHONPATH", "PYTHONHOME"} & set(pip.environ)


def test_too_little_room_is_said_before_anything_is_fetched(checkout: Path, pip: FakePip) -> None:
    setup = SetUp(checkout, {}, run=pip, free_bytes=lambda _: 10**9, stream=io.StringIO())
    with pytest.raises(LauncherError, match=r"1\.0 GB free.*Make room"):
        setup.ensure({"worker"})
    assert pip.commands == []


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.EROFS, "can't be written by this user"),
        (errno.EACCES, "can't be written by this user"),
        (errno.ENOSPC, "The disk is full"),
    ],
)
def test_a_folder_that_takes_no_files_is_said_in_one_sentence(
    checkout: Path, pip: FakePip, number: int, sentence: str
) -> None:
    def refuse(_: Path) -> int:
        raise OSError(number, "refused")

    setup = SetUp(checkout, {}, run=pip, free_bytes=refuse, stream=io.StringIO())
    with pytest.raises(LauncherError, match=sentence):
        setup.ensure({"worker"})


def test_a_site_alone_needs_no_torch(checkout: Path, pip: FakePip) -> None:
    set_up(checkout, pip).ensure({"site"})
    (command,) = pip.installs()
    assert command[-1] == "django"
    assert not [word for word in command if word.startswith("torch")]


def test_unknown_extra_names_those_there_are(checkout: Path, pip: FakePip) -> None:
    with pytest.raises(LauncherError, match="Unknown extra gpu; there are site, worker"):
        set_up(checkout, pip).ensure({"gpu"})


def test_unknown_extra_takes_nothing_apart(checkout: Path, pip: FakePip) -> None:
    set_up(checkout, pip).ensure({"worker"})
    pip.commands.clear()
    with pytest.raises(LauncherError, match="Unknown extra gpu"):
        set_up(checkout, pip).ensure({"gpu"})
    set_up(checkout, pip).ensure({"worker"})
    assert pip.commands == []


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("SSLError(SSLCertVerificationError(1, 'certificate verify failed'", "PIP_CERT"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES\nHASHES DO NOT MATCH", "damaged"),
        (
            "NewConnectionError: Failed to establish a new connection\n"
            "ERROR: No matching distribution found for torch==2.13.0",
            "can't be reached",
        ),
        ("ERROR: No matching distribution found for torch==2.13.0", "no build of torch==2.13.0"),
        ("Error: ensurepip is not available", "sudo apt install python3-venv"),
        ("PermissionError: [Errno 13] Permission denied: 'x.so'", "can't be written"),
        ("ERROR: something new", "pip says: ERROR: something new"),
        ("", "The installation failed."),
    ],
)
def test_pips_words_become_a_sentence(output: str, sentence: str) -> None:
    assert sentence in launcher.explain(output)


def test_progress_on_a_log_is_only_the_steps() -> None:
    stream = io.StringIO()
    with launcher.Progress(stream) as progress:
        progress.step("Installing PyTorch ...")
        progress.line("Collecting torch")
    assert stream.getvalue() == "Installing PyTorch ...\n"


def test_run_logged_keeps_output_and_its_code(tmp_path: Path) -> None:
    seen: list[str] = []
    code = "print('설치'); raise SystemExit(3)"
    with (tmp_path / "setup.log").open("w+", encoding="utf-8") as log:
        answer = launcher.run_logged(
            [sys.executable, "-X", "utf8", "-c", code], log, {}, seen.append
        )
        log.seek(0)
        assert "설치" in log.read()
    assert answer == (3, "설치\n")
    assert seen == ["설치\n"]


@pytest.mark.parametrize(
    ("arguments", "module", "given", "is_supervised"),
    [
        ([], "worker", ("run",), True),
        (["run", "--lane", "cloud"], "worker", ("run", "--lane", "cloud"), True),
        (["run", "--help"], "worker", ("run", "--help"), False),
        (["doctor", "--json"], "worker", ("doctor", "--json"), False),
        (["segment", "a b", "--out", "c"], "worker", ("segment", "a b", "--out", "c"), False),
        (["demo", "--keep"], "demo", ("--keep",), False),
        (["test", "-k", "x"], "pytest", ("-k", "x"), False),
    ],
)
def test_command_line_decides_what_is_started(
    arguments: list[str], module: str, given: tuple[str, ...], is_supervised: bool
) -> None:
    plan = launcher.plan(arguments)
    assert (plan.module, plan.arguments, plan.is_supervised) == (module, given, is_supervised)


def test_set_up_alone_starts_nothing() -> None:
    assert launcher.plan(["setup", "site"]) == launcher.Plan(extras=("site",), module=None)


def test_children_find_the_project_and_not_what_lies_where_the_user_stands(checkout: Path) -> None:
    setup = SetUp(checkout, {})
    environ = launcher.child_environ({"PATH": "/bin", "PYTHONHOME": "/x"}, setup)
    assert environ["PYTHONPATH"] == str(checkout)
    assert environ["PYTHONSAFEPATH"] == "1"
    assert environ["PYTHONUTF8"] == "1"
    assert environ["PATH"].startswith(str(setup.python.parent))
    assert "PYTHONHOME" not in environ


class FakeProcess:
    def __init__(self, code: int, during: Any = None) -> None:
        self.code = code
        self.during = during
        self.signals: list[int] = []

    def wait(self) -> int:
        if self.during:
            self.during()
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    def terminate(self) -> None:
        self.signals.append(signal.SIGTERM)


class Supervised:
    """A supervisor over processes that end as told, and a clock that only waiting moves."""

    def __init__(self, *processes: FakeProcess, lifetimes_s: Sequence[float] = ()) -> None:
        self.now = 0.0
        self.delays: list[float] = []
        self.lines: list[str] = []
        lifetimes = iter([*lifetimes_s, *[1.0] * len(processes)])
        waiting = iter(processes)

        def start() -> Any:
            self.now += next(lifetimes)
            return next(waiting)

        self.supervisor = Supervisor(start, clock=lambda: self.now, tell=self.lines.append)
        self.supervisor.wait = self._wait  # type: ignore[method-assign]

    def _wait(self, seconds: float) -> bool:
        self.delays.append(seconds)
        self.now += seconds
        return False


@pytest.mark.parametrize("code", [0, 2, 64, 69, 77, 78])
def test_worker_that_ends_is_not_started_again(code: int) -> None:
    assert Supervised(FakeProcess(code)).supervisor.run() == code


def test_broken_engine_is_started_again_with_growing_pauses() -> None:
    world = Supervised(*[FakeProcess(70)] * 8, FakeProcess(0))
    assert world.supervisor.run() == 0
    assert world.delays == [5, 10, 20, 40, 80, 160, 300, 300]
    assert "70" in world.lines[0]


def test_pauses_start_anew_after_a_calm_time() -> None:
    world = Supervised(
        FakeProcess(70), FakeProcess(70), FakeProcess(70), FakeProcess(0), lifetimes_s=[1, 1, 3600]
    )
    world.supervisor.run()
    assert world.delays == [5, 10, 5]


@pytest.mark.skipif(launcher.IS_WINDOWS, reason="the console passes signals on there")
def test_stop_signal_reaches_the_worker_once_and_ends_the_restarts() -> None:
    process = FakeProcess(70)
    world = Supervised(process)
    process.during = lambda: world.supervisor.pass_on(signal.SIGTERM)
    assert world.supervisor.run() == 70
    assert process.signals == [signal.SIGTERM]


def test_stop_signal_before_the_first_start_is_not_lost() -> None:
    process = FakeProcess(0)
    world = Supervised(process)
    world.supervisor.pass_on(signal.SIGTERM)
    assert world.supervisor.run() == 0
    assert process.signals == [signal.SIGTERM]


def test_killed_worker_ends_with_the_shells_code() -> None:
    assert Supervised(FakeProcess(-9)).supervisor.run() == 137


def test_stamp_survives_its_file() -> None:
    stamp = Stamp("abc", ("site", "worker"), "https://index.example")
    assert Stamp.from_text(stamp.to_text()) == stamp


def test_launcher_can_be_read_by_an_old_python() -> None:
    source = (REPOSITORY / "launcher.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 7))


def test_old_python_without_a_newer_one_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launcher, "OLDEST_PYTHON", (99, 0))
    monkeypatch.setattr(launcher, "find_python", lambda: None)
    with pytest.raises(LauncherError, match=r"Python 3\.11 or newer is needed"):
        launcher.ensure_python([])


def test_real_requirements_are_all_pinned() -> None:
    requirements = launcher.read_requirements(REPOSITORY / "setup.py")
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if "==" in line}
    for wanted in launcher.wanted_requirements(requirements, set(requirements) - {""}):
        name = wanted.split("[")[0].split(">")[0].split("=")[0].lower()
        assert name in pinned, wanted
    text = "\n".join(lines)
    assert launcher.torch_pin(text) == "torch==2.13.0"


def test_start_scripts_hold_no_logic_and_end_their_lines_as_their_system_wants() -> None:
    batch = (REPOSITORY / "start_worker_http.bat").read_bytes()
    assert batch.count(b"\r\n") == batch.count(b"\n") < 25
    assert b"chcp 65001" in batch
    assert b"exit /b %ERRORLEVEL%" in batch
    for name in ("start_worker.sh", "run_tests.sh"):
        script = REPOSITORY / name
        assert b"\r" not in script.read_bytes()
        assert script.stat().st_mode & 0o111
