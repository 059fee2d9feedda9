"""The log is JSON when asked for, says which case a line is about, and holds no secret."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from django_queue_app import log_context
from tests.support.http_worker import HttpWorker
from tests.support.live_site import LiveSite, start_live, stop_live

METRICS_TOKEN = "metrics-" + "m" * 40


@pytest.fixture(scope="module")
def server_log(tmp_path_factory: pytest.TempPathFactory) -> tuple[LiveSite, str]:
    """A real server that writes JSON, after a whole case, wrong tokens and wrong passwords."""
    folder = tmp_path_factory.mktemp("json")
    live = start_live(
        folder, SEGMENTATION_LOG_FORMAT="json", SEGMENTATION_METRICS_TOKEN=METRICS_TOKEN
    )
    try:
        _serve_one_case(live)
        _try_to_get_in(live)
        command_lines = [" ".join(psutil.Process(live.process.pid).cmdline())]
        (folder / "processes").write_text("\n".join(command_lines))
    finally:
        stop_live(live)
    return live, (folder / "server.log").read_text(encoding="utf-8")


def _serve_one_case(live: LiveSite) -> None:
    with live.client("user") as user, live.client("lab") as lab:
        user.post(f"/series/{live.series['t1']}/request-local/", json={}).raise_for_status()
        worker = HttpWorker(lab)
        job = worker.claim().json()
        worker.serve(job).raise_for_status()


def _try_to_get_in(live: LiveSite) -> None:
    wrong = {"Authorization": "Bearer mri_wrong-secret"}
    httpx.get(f"{live.api}/series/", headers=wrong, trust_env=False)
    with httpx.Client(base_url=live.url, trust_env=False) as page:
        form = page.get("/login/")
        page.post(
            "/login/",
            data={
                "username": "doctor",
                "password": "wrong-password",
                "csrfmiddlewaretoken": form.cookies["csrftoken"],
            },
        )


def lines_of(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


def test_every_line_is_an_object(server_log: tuple[LiveSite, str]) -> None:
    _, log = server_log
    lines = lines_of(log)
    assert lines
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(line)


def test_every_line_about_a_case_says_which_and_whose(server_log: tuple[LiveSite, str]) -> None:
    _, log = server_log
    changes = [one for one in lines_of(log) if one.get("event") == "request_changed"]
    told = [(one["to_status"], one["worker"], one["attempt"]) for one in changes]
    # The last one may come twice: the result is accepted, and the archive has taken the mask.
    assert list(dict.fromkeys(told)) == [
        ("pending", "", 0),
        ("processing", "pc-1", 1),
        ("completed", "pc-1", 1),
    ]
    (request_id,) = {one["request_id"] for one in changes}
    about = [one for one in lines_of(log) if request_id in one["message"]]
    assert {one["request_id"] for one in about} == {request_id}
    served = [one for one in lines_of(log) if one.get("route", "").endswith("<instance_id>")]
    assert served
    for one in served:
        assert (one["request_id"], one["attempt"], one["worker"]) == (request_id, 1, "pc-1")
    assert all(one["call_id"] for one in changes)


def test_no_secret_stands_in_the_log_or_in_a_command_line(
    server_log: tuple[LiveSite, str],
) -> None:
    live, log = server_log
    told = log + (live.data_dir.parent / "processes").read_text()
    kept = [path.read_text().strip() for path in live.data_dir.glob("*.key")]
    assert kept
    secrets = [*live.secrets.values(), *kept, METRICS_TOKEN]
    for secret in [*secrets, "mri_wrong-secret", "wrong-password"]:
        assert secret not in told
    assert "login_failed" in log


def test_no_patient_stands_in_the_log(server_log: tuple[LiveSite, str]) -> None:
    _, log = server_log
    for word in ("Phantom", "P-1"):
        assert word not in log


def test_a_line_keeps_what_it_says_itself() -> None:
    record = logging.makeLogRecord({"msg": "x", "request_id": "own"})
    with log_context.of_one_call() as call_id:
        log_context.bind(request_id="of the call", attempt=2, worker="")
        log_context.ContextFilter().filter(record)
    said = vars(record)
    assert (said["request_id"], said["attempt"], said["call_id"]) == ("own", 2, call_id)
    assert "worker" not in said


def test_what_is_bound_ends_with_the_call() -> None:
    log_context.bind(request_id="lost")
    with log_context.of_one_call():
        log_context.bind(request_id="1")
    record = logging.makeLogRecord({"msg": "x"})
    log_context.ContextFilter().filter(record)
    assert not hasattr(record, "request_id")


def test_the_cloud_worker_gets_its_token_by_environment() -> None:
    """A command line is for everybody on the machine to read."""
    from django_queue_app.management.commands import run_cloud_worker

    source = Path(run_cloud_worker.__file__).read_text(encoding="utf-8")
    assert '"WORKER_TOKEN": secret' in source
    assert "argv" not in source
