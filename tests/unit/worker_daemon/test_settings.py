from __future__ import annotations

from pathlib import Path

import pytest

from worker.core.errors import SettingsError
from worker.core.postprocess import Postprocess
from worker.settings import Settings, load_settings

REPOSITORY = Path(__file__).resolve().parents[3]
MODEL = "default_model: m\nmodels: {m: {path: here}}\n"


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environ)


def problems(tmp_path: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, **environ)
    return caught.value.problems


def test_the_shipped_file_works_unchanged_against_this_machine() -> None:
    settings = load_settings(REPOSITORY / "config.yaml", {})
    assert settings.server.url == "http://127.0.0.1:8000"
    assert settings.worker.lane == "lab"
    assert settings.default_model in settings.models


def test_the_shipped_file_shows_the_defaults(tmp_path: Path) -> None:
    shipped = load_settings(REPOSITORY / "config.yaml", {})
    bare = load(tmp_path, MODEL)
    assert shipped.server == bare.server
    assert shipped.inference == bare.inference
    assert shipped.worker.drain_s == bare.worker.drain_s
    assert shipped.log.max_bytes == bare.log.max_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server: {wait_s: fast}", "server.wait_s: expected a number > 0 and <= 25, got 'fast'"),
        ("server: {wait_s: 30}", "server.wait_s: expected a number > 0 and <= 25, got 30"),
        ("server: {wait_s: .nan}", "server.wait_s: expected a number > 0 and <= 25, got nan"),
        ("server: {wait_s: true}", "server.wait_s: expected a number > 0 and <= 25, got True"),
        ("server: {connect_timeout_s: 0}", "expected a number > 0, got 0"),
        ("server: {wait: 3}", "server.wait: unknown key, did you mean 'wait_s'?"),
        ("sever: {}", "sever: unknown key, did you mean 'server'?"),
        ("server: 3", "server: expected keys with values, got 3"),
        ("server: {url: 'ftp://x'}", "server.url: expected an address such as"),
        ("server: {url: 'http://x:99999'}", "server.url: expected an address such as"),
        ("server: {token: abc}", "server.token: secrets don't belong in this file"),
        ("server: {token_file: nowhere}", "server.token_file: expected a file that exists"),
        ("server: {ca_file: nowhere}", "server.ca_file: expected a file that exists"),
        ("worker: {lane: moon}", "worker.lane: expected one of lab, cloud, got 'moon'"),
        ("worker: {downloads: 1.5}", "worker.downloads: expected a whole number >= 1, got 1.5"),
        (
            "inference: {device: gpu}",
            "inference.device: expected auto, cpu, cuda or cuda:N, or several of them",
        ),
        ("inference: {threshold: 2}", "inference.threshold: expected a number > 0 and <= 1, got 2"),
        ("inference: {warm_at_start: 'no'}", "warm_at_start: expected true or false, got 'no'"),
        ("log: {level: loud}", "log.level: expected one of debug, info, warning, error"),
        ("orthanc: {password: x}", "orthanc.password: secrets don't belong in this file"),
    ],
)
def test_each_mistake_names_key_expectation_and_value(
    tmp_path: Path, text: str, expected: str
) -> None:
    found = problems(tmp_path, MODEL + text)
    assert len(found) == 1
    assert found[0].startswith("config.yaml: ")
    assert expected in found[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: {b: 1\n", "config.yaml: line 2"),
        ("server:\n\turl: x\n", "config.yaml: line 2: indented with a tab; YAML wants spaces"),
        ("server: {}\nserver: {}\n", "line 2: the key 'server' is there already, in line 1"),
        ("- a\n", "config.yaml: expected keys with values"),
        ("just words", "config.yaml: expected keys with values"),
    ],
)
def test_yaml_that_does_not_parse_is_one_sentence(tmp_path: Path, text: str, expected: str) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert expected in found[0]


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    text = "server: {wait_s: -1, pol: 2}\nworker: {lane: x}\nmodels: {m: {}}\ndefault_model: n\n"
    found = problems(tmp_path, text, DEVICE="gpu", POLL_INTERVAL="often", THRESHOLD="5")
    keys = ["DEVICE", "POLL_INTERVAL", "THRESHOLD", "server.wait_s", "server.pol"]
    keys += ["worker.lane", "models.m.path", "default_model"]
    for key in keys:
        assert sum(key + ":" in line for line in found) == 1, (key, found)
    assert len(found) == len(keys)


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        ("{label: A}", "models.m.segments.1.type: expected a code {value, scheme, meaning}"),
        ("{}", "models.m.segments.1.label: expected what the segment is called, got nothing"),
        ("{label: A, color: [1, 2]}", "segments.1.color: expected three whole numbers 0..255"),
        ("{label: A, category: {value: 1}}", "segments.1.category.scheme: expected a text"),
        ("{label: A, colour: [1, 2, 3]}", "segments.1.colour: unknown key, did you mean 'color'?"),
    ],
)
def test_a_segment_without_its_codes_is_refused(
    tmp_path: Path, segment: str, expected: str
) -> None:
    text = f"default_model: m\nmodels: {{m: {{path: x, segments: {{1: {segment}}}}}}}"
    assert any(expected in line for line in problems(tmp_path, text))


@pytest.mark.parametrize("value", ["0", "-1", "a", "70000", "true"])
def test_a_label_value_must_be_a_positive_number(tmp_path: Path, value: str) -> None:
    text = f"default_model: m\nmodels: {{m: {{path: x, segments: {{{value}: {{label: A}}}}}}}}"
    assert any("a label value from 1 to 65535" in line for line in problems(tmp_path, text))


def test_segments_come_in_the_order_of_their_labels() -> None:
    settings = load_settings(REPOSITORY / "config.yaml", {})
    values = [segment.label_value for segment in settings.models["demo_brain_tumor"].segments]
    assert values == [1, 2, 4]


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        MODEL,
        DJANGO_API_URL="https://site.example/",
        WORKER_TOKEN=" abc ",
        POLL_INTERVAL="30",
        DEVICE="CUDA:1",
        THRESHOLD="0.4",
        MODEL_PATH=str(tmp_path / "elsewhere"),
        ORTHANC_URL="http://orthanc:8042",
        ORTHANC_USER="u",
        ORTHANC_PASSWORD="p",
    )
    assert settings.server.url == "https://site.example"
    assert settings.server.credentials is not None
    assert settings.server.credentials.token == "abc"
    assert settings.server.credentials.name is None
    assert settings.server.poll_interval_s == 30
    assert settings.inference.device == "cuda:1"
    assert settings.inference.threshold == 0.4
    assert settings.models["m"].path == tmp_path / "elsewhere"
    assert (settings.orthanc.url, settings.orthanc.user) == ("http://orthanc:8042", "u")


def test_a_blank_variable_counts_as_absent(tmp_path: Path) -> None:
    settings = load(tmp_path, MODEL, DEVICE="", DJANGO_API_URL=" ", WORKER_TOKEN="")
    assert settings.inference.device == "auto"
    assert settings.server.credentials is None


def test_name_and_token_become_basic_credentials(tmp_path: Path) -> None:
    credentials = load(tmp_path, MODEL, DJANGO_API_AUTH="lab:a:b").server.credentials
    assert credentials is not None
    assert (credentials.name, credentials.token) == ("lab", "a:b")


@pytest.mark.parametrize("value", ["justatoken", ":x", "x:"])
def test_half_a_pair_is_a_problem_that_does_not_repeat_it(tmp_path: Path, value: str) -> None:
    found = problems(tmp_path, MODEL, DJANGO_API_AUTH=value)
    assert found == ["DJANGO_API_AUTH: expected name:token, got 'something without both parts'"]


def test_a_token_with_a_line_break_is_refused_without_showing_it(tmp_path: Path) -> None:
    found = problems(tmp_path, MODEL, WORKER_TOKEN="hun\nter2")
    assert len(found) == 1
    assert "ter2" not in found[0]


def test_the_token_can_come_from_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    settings = load(tmp_path, MODEL + "server: {token_file: token}")
    assert settings.server.credentials is not None
    assert settings.server.credentials.token == "abc"


def test_no_secret_is_in_the_repr(tmp_path: Path) -> None:
    settings = load(tmp_path, MODEL, WORKER_TOKEN="hunter2", ORTHANC_PASSWORD="swordfish")
    assert "hunter2" not in repr(settings)
    assert "swordfish" not in repr(settings)


def test_a_password_in_the_address_is_refused_without_showing_it(tmp_path: Path) -> None:
    found = problems(tmp_path, MODEL, DJANGO_API_URL="http://a:hunter2@site")
    assert len(found) == 1
    assert "hunter2" not in found[0]


def test_relative_paths_start_beside_the_file_also_in_hangul(tmp_path: Path) -> None:
    folder = tmp_path / "분할 작업"
    folder.mkdir()
    settings = load(folder, MODEL + "worker: {work_dir: 작업}")
    assert settings.worker.work_dir == folder / "작업"
    assert settings.models["m"].path == folder / "here"
    assert settings.log.file == folder / "작업" / "logs" / "worker.log"


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="There is no configuration file"):
        load_settings(tmp_path / "none.yaml", {})


def test_a_byte_order_mark_of_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MODEL.encode())
    assert load_settings(path, {}).default_model == "m"


def test_order_registration_and_postprocessing_are_settings_of_a_model(tmp_path: Path) -> None:
    text = MODEL.replace(
        "path: here",
        "path: here, sequence_check: refuse, registration: rigid, postprocess: "
        "{fill_holes: true, min_volume_ml: 0.1, keep_largest: all, connectivity: 6}",
    )
    model = load(tmp_path, text).models["m"]
    assert (model.sequence_check, model.registration) == ("refuse", "rigid")
    assert model.postprocess == Postprocess(
        fill_holes=True, min_volume_ml=0.1, keep_largest="all", connectivity=6
    )
    plain = load(tmp_path, MODEL).models["m"]
    assert (plain.sequence_check, plain.registration) == ("warn", "off")
    assert plain.postprocess.is_off


def test_off_may_be_written_without_quotes(tmp_path: Path) -> None:
    text = MODEL.replace(
        "path: here", "path: here, sequence_check: off, postprocess: {keep_largest: off}"
    )
    model = load(tmp_path, text).models["m"]
    assert (model.sequence_check, model.postprocess.keep_largest) == ("off", "off")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("registration: affine", "models.m.registration: expected one of off, rigid, always"),
        ("sequence_check: true", "models.m.sequence_check: expected one of warn, refuse, off"),
        ("postprocess: {min_volume_ml: -1}", "expected a number of millilitres > 0, got -1"),
        ("postprocess: {connectivity: 18}", "models.m.postprocess.connectivity: expected 6 or 26"),
        ("postprocess: {keep_bigest: all}", "unknown key"),
    ],
)
def test_a_mistake_in_them_is_named(tmp_path: Path, written: str, expected: str) -> None:
    (problem,) = problems(tmp_path, MODEL.replace("path: here", f"path: here, {written}"))
    assert expected in problem


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("inference: {device: 'cuda:0, cuda:1'}", ("cuda:0", "cuda:1")),
        ("inference: {device: [cuda:1, cuda:3]}", ("cuda:1", "cuda:3")),
        ("", ("auto",)),
    ],
)
def test_several_devices(tmp_path: Path, text: str, devices: tuple[str, ...]) -> None:
    assert load(tmp_path, MODEL + text).inference.devices == devices
    several = load(tmp_path, MODEL + text, DEVICE="cuda:4,cuda:5").inference
    assert (several.devices, several.device) == (("cuda:4", "cuda:5"), "cuda:4")


def test_processes_of_a_device_follow_what_it_is(tmp_path: Path) -> None:
    plain = load(tmp_path, MODEL).inference
    assert (plain.processes_on("cpu"), plain.processes_on("cuda:1")) == (1, 3)
    assert load(tmp_path, MODEL + "inference: {processes: 2}").inference.processes_on("cpu") == 2
