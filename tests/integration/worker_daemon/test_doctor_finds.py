"""What `doctor` finds between this machine and the site, each with a sentence and what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.integration.worker_daemon.certificates import Authority
from tests.integration.worker_daemon.fake_site import FakeSite, running
from worker import doctor
from worker.doctor import Check, Verdict
from worker.settings import Credentials, Settings


def with_server(settings: Settings, **changes: object) -> Settings:
    return dataclasses.replace(settings, server=dataclasses.replace(settings.server, **changes))


def agreement(settings: Settings) -> dict[str, Check]:
    return {check.name: check for check in doctor.check_agreement(settings)}


def test_all_is_well(worker_settings: Settings) -> None:
    assert doctor.check_site(worker_settings).verdict is Verdict.OK
    found = agreement(worker_settings)
    assert {name: check.verdict for name, check in found.items()} == {
        "versions": Verdict.OK,
        "lane": Verdict.OK,
        "clock": Verdict.OK,
    }


def test_a_wrong_address(worker_settings: Settings) -> None:
    check = doctor.check_site(with_server(worker_settings, url="http://127.0.0.1:9"))
    assert (check.verdict, check.exit_code) == (Verdict.FAIL, 69)
    assert "No connection to http://127.0.0.1:9" in check.found
    assert "server.url" in check.advice


def test_a_refused_token(worker_settings: Settings) -> None:
    wrong = with_server(worker_settings, credentials=Credentials(token="hunter2"))
    check = doctor.check_site(wrong)
    assert (check.verdict, check.exit_code) == (Verdict.FAIL, 77)
    assert "WORKER_TOKEN" in check.advice
    assert "hunter2" not in check.found


@pytest.mark.parametrize(
    ("days_left", "name", "sentence"),
    [
        (-1, "localhost", "has expired: the site's administrator must renew it"),
        (61, "localhost", "is not valid yet: this machine's date is wrong"),
        (30, "elsewhere.example", "is for another name"),
    ],
)
def test_a_bad_certificate_is_refused_with_its_own_sentence(
    worker_settings: Settings, tmp_path: Path, days_left: int, name: str, sentence: str
) -> None:
    authority = Authority(tmp_path)
    with running(FakeSite(), tls=authority.context(days_left=days_left, name=name)) as site:
        settings = with_server(worker_settings, url=site.url, ca_file=authority.ca_file)
        check = doctor.check_site(settings)
    assert check.verdict is Verdict.FAIL
    assert sentence in check.found
    assert site.calls == [], "nothing was sent, the token least of all"


def test_a_hospitals_own_authority_is_trusted_once_it_is_named(
    worker_settings: Settings, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    with running(FakeSite(), tls=authority.context()) as site:
        unnamed = doctor.check_site(with_server(worker_settings, url=site.url))
        assert site.calls == [], "verification is on by default"
        named = with_server(worker_settings, url=site.url, ca_file=authority.ca_file)
        check = doctor.check_site(named)
    assert "server.ca_file" in unnamed.found
    assert check.verdict is Verdict.OK, check


@pytest.mark.parametrize(("off_s", "word"), [(-7200, "120 min ahead of"), (7200, "120 min behind")])
def test_a_clock_that_is_off(
    site: FakeSite, worker_settings: Settings, off_s: float, word: str
) -> None:
    site.clock_off_s = off_s
    check = agreement(worker_settings)["clock"]
    assert check.verdict is Verdict.WARN
    assert word in check.found


def test_a_token_for_another_lane(site: FakeSite, worker_settings: Settings) -> None:
    site.health["lane"] = "cloud"
    check = agreement(worker_settings)["lane"]
    assert check.verdict is Verdict.WARN
    assert "the token is for the cloud lane and the settings say lab" in check.found


@pytest.mark.parametrize(
    ("health", "advice"),
    [
        ({"version": "0.0.9"}, "Update the site"),
        ({"version": None}, "Update the site"),
        ({"least_worker_version": "99.0"}, "Update this worker: the site takes 99.0"),
    ],
)
def test_a_site_that_is_too_old_or_too_new(
    site: FakeSite, worker_settings: Settings, health: dict[str, object], advice: str
) -> None:
    site.health.update(health)
    check = agreement(worker_settings)["versions"]
    assert check.verdict is Verdict.FAIL
    assert advice in check.advice


def test_too_little_memory() -> None:
    assert doctor.check_memory(lambda: (8 << 30, 1 << 30)).verdict is Verdict.WARN
    assert doctor.check_memory(lambda: (32 << 30, 16 << 30)).verdict is Verdict.OK
    assert doctor.check_memory().found


def test_too_little_disk(worker_settings: Settings) -> None:
    much = dataclasses.replace(worker_settings.worker, least_free_mb=10**9)
    check = doctor.check_work_folder(dataclasses.replace(worker_settings, worker=much))
    assert check.verdict is Verdict.FAIL
    assert "Free some space" in check.advice


CPU_BUILD = {"torch": "2.13.0+cpu", "cuda": None, "driver_cuda": None}


@pytest.mark.parametrize(
    ("report", "has_card", "found", "advice"),
    [
        (CPU_BUILD, False, "no GPU is used", "with an NVIDIA card install"),
        (CPU_BUILD, True, "built without CUDA", "CUDA build of torch"),
        ({"cuda": "13.0", "driver_cuda": None}, True, "without a driver", "NVIDIA's driver"),
        (
            {"cuda": "13.0", "driver_cuda": "12.2"},
            True,
            "the driver knows CUDA 12.2 at most and torch is built for 13.0",
            "newer NVIDIA driver, or a torch built for CUDA 12",
        ),
        ({"cuda": "12.8", "driver_cuda": "12.2"}, True, "no card is visible", "CUDA_VISIBLE"),
    ],
)
def test_a_gpu_that_is_not_used(
    report: dict[str, Any], has_card: bool, found: str, advice: str
) -> None:
    check = doctor.check_device("auto", "cpu", report, has_card=lambda: has_card)
    assert check.verdict is Verdict.WARN
    assert found in check.found
    assert advice in check.advice


def test_a_gpu_with_enough_memory_and_one_without() -> None:
    large, small = {"memory": {"total": 24e9}}, {"memory": {"total": 2e9}}
    assert doctor.check_device("auto", "cuda:0", large).verdict is Verdict.OK
    assert doctor.check_device("auto", "cuda:0", small).verdict is Verdict.WARN
    assert doctor.check_device("cpu", "cpu", {}).verdict is Verdict.OK
