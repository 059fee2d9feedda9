"""Starts, stops and kills the worker's process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.acceptance.worker.conftest import REPOSITORY, Workers, ended, is_polling, wait_for
from tests.integration.worker_daemon.fake_site import TOKEN, FakeSite
from tests.support.dicom_phantoms import write_series

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's here")


def test_it_works_until_it_is_asked_to_end(site: FakeSite, workers: Workers) -> None:
    request = site.file("r1", b"succeed")
    process = workers.start()
    wait_for(lambda: request.result)
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert code == 0
    summary = next(line for line in err.splitlines() if "case_finished" in line)
    for part in ("request_id=r1", "model=fake:1", "tumor_ml=", "downloading_s=", "upload_s="):
        assert part in summary
    log = workers.folder / "var" / "worker" / "logs" / "worker.log"
    assert "case_finished" in log.read_text(encoding="utf-8")
    assert TOKEN not in log.read_text(encoding="utf-8") + err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_ends_at_once_and_leaves_no_child(
    site: FakeSite, workers: Workers, number: int
) -> None:
    process = workers.start()
    wait_for(lambda: is_polling(site))
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    started = time.monotonic()
    process.send_signal(number)
    assert ended(process)[0] == 0
    assert time.monotonic() - started < 4
    assert psutil.wait_procs(children, timeout=5)[1] == []


def test_the_second_signal_gives_a_running_case_back(site: FakeSite, workers: Workers) -> None:
    request = site.file("r1", b"slow")
    process = workers.start()
    wait_for(workers.cases_run)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None, "the first signal lets the case go on"
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert (code, request.status) == (0, "released")
    assert err.index("press again to end at once") < err.index("Ending at once.")
    assert "child_last_words" not in err, "nothing went wrong"


def test_a_worker_killed_in_the_middle_reports_it_after_its_restart(
    site: FakeSite, workers: Workers
) -> None:
    request = site.file("r1", b"slow")
    process = workers.start()
    wait_for(workers.cases_run)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert psutil.wait_procs(children, timeout=5)[1] == [], "the child ends with its parent"
    workers.start()
    wait_for(lambda: request.failure)
    assert request.failure is not None
    assert request.failure["code"] == "worker_restart"
    assert request.failure["retryable"] is True
    wait_for(lambda: not list(workers.jobs.glob("*/job.json")))


def test_a_finished_mask_survives_the_worker_without_a_second_inference(
    site: FakeSite, workers: Workers
) -> None:
    request = site.file("r1", b"succeed")
    fault = site.fault_always("PUT", "artifacts", "status", 503)
    process = workers.start()
    wait_for(lambda: list(workers.jobs.glob("*/result.json")))
    process.kill()
    process.wait()
    site.faults.remove(fault)
    workers.start()
    wait_for(lambda: request.result)
    assert workers.cases_run() == ["r1 succeed"]
    assert request.completions == 1


def test_a_worker_killed_while_it_polls_asks_with_the_same_lease_again(
    site: FakeSite, workers: Workers
) -> None:
    process = workers.start()
    wait_for(lambda: is_polling(site))
    lease = next(iter(workers.jobs.iterdir())).name
    process.kill()
    process.wait()
    # Granted while nobody listened: the site still waits for this lease's worker.
    request = site.file("r1", b"succeed")
    workers.start()
    wait_for(lambda: request.result)
    assert lease in request.leases
    assert request.attempt == 1


def test_a_second_worker_in_the_same_folder_is_refused(site: FakeSite, workers: Workers) -> None:
    first = workers.start()
    wait_for(lambda: is_polling(site))
    code, _, err = ended(workers.start())
    assert code == 78
    assert f"in use by another worker (process {first.pid})" in err
    assert first.poll() is None


def test_once_takes_one_request_and_ends(site: FakeSite, workers: Workers) -> None:
    first, second = site.file("r1", b"succeed"), site.file("r2", b"succeed")
    code, out, _ = ended(workers.start("once", "--json"))
    assert code == 0
    body = json.loads(out)
    assert (body["request_id"], body["ending"]) == ("r1", "completed")
    assert first.result
    assert second.status == "pending"


def test_once_tells_that_nothing_was_waiting(workers: Workers) -> None:
    code, out, _ = ended(workers.start("once"))
    assert (code, out) == (0, "No request was waiting.\n")


def test_once_says_bad_data_by_its_exit_code(site: FakeSite, workers: Workers) -> None:
    site.file("r1", b"error")
    code, _, err = ended(workers.start("once"))
    assert code == 64
    assert "Error: The missing_slices sentence." in err


def test_a_site_that_is_not_there_ends_the_start_with_69(workers: Workers) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        code, _, err = ended(workers.start(DJANGO_API_URL=url))
    assert code == 69
    assert f"Error: No connection to {url}" in err


@pytest.mark.parametrize("token", ["wrong", ""])
def test_refused_credentials_end_the_start_with_77(workers: Workers, token: str) -> None:
    code, _, err = ended(workers.start(WORKER_TOKEN=token))
    assert code == 77
    assert "WORKER_TOKEN" in err


def test_bad_settings_end_with_78_and_every_mistake(workers: Workers) -> None:
    code, _, err = ended(workers.start(DEVICE="gpu", POLL_INTERVAL="x"))
    assert code == 78
    assert "DEVICE: expected auto, cpu, cuda or cuda:N, or several of them" in err
    assert "POLL_INTERVAL: expected a number > 0, got 'x'" in err


def test_settings_that_the_child_refuses_give_the_case_back_and_end_with_78(
    site: FakeSite, workers: Workers
) -> None:
    request = site.file("r1", b"settings")
    code, _, err = ended(workers.start())
    assert code == 78
    assert "Error: The bad_settings sentence." in err
    assert (request.status, request.failure) == ("released", None)


def test_a_device_that_fails_twice_in_a_row_ends_with_70(site: FakeSite, workers: Workers) -> None:
    for name in ("r1", "r2"):
        site.file(name, b"broken")
    code, _, err = ended(workers.start())
    assert code == 70
    assert "Error: The cuda_fault sentence." in err


def run_cli(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=60,
    )


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["nonsense"], ["segment"], ["run", "--lane", "moon"]]
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    done = run_cli(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_help_of_the_commands_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom worker.cli import main\n"
        "for command in ([], ['run'], ['once'], ['segment'], ['doctor']):\n"
        "    main([*command, '--help'])\n"
        "heavy = {'torch', 'monai', 'numpy', 'requests', 'pydicom', 'rich', 'yaml', 'tenacity'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr


def test_the_daemon_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "import worker.bootstrap, worker.daemon, worker.doctor, worker.segment_command\n"
        "sys.exit(','.join({'torch', 'monai', 'pydicom', 'highdicom'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr


def test_segment_refuses_a_folder_without_images_with_64(tmp_path: Path) -> None:
    done = run_cli("segment", str(tmp_path), "--out", str(tmp_path / "out"))
    assert done.returncode == 64
    assert done.stderr == f"Error: There are no DICOM images in {tmp_path}.\n"


def test_an_error_has_its_code_where_a_program_reads_it(tmp_path: Path) -> None:
    done = run_cli("segment", str(tmp_path), "--out", str(tmp_path / "out"), "--json")
    assert json.loads(done.stdout)["error"]["code"] == "no_images"


@pytest.mark.parametrize("command", ["run", "once", "segment"])
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("no folder")
    config = tmp_path / "config.yaml"
    config.write_text("models: {m: {path: m}}\nworker: {work_dir: file/work}\n")
    rest = [str(tmp_path), "--out", str(tmp_path / "out")] if command == "segment" else []
    done = run_cli(command, *rest, "--config", str(config))
    assert done.returncode == 78
    assert "can't be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_result_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    write_series(tmp_path / "series")
    (tmp_path / "file").write_text("no folder")
    done = run_cli("segment", str(tmp_path / "series"), "--out", str(tmp_path / "file" / "out"))
    assert done.returncode == 78
    assert done.stderr.startswith("Error: --out ")
    assert done.stderr.count("\n") == 1
