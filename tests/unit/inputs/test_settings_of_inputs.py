from __future__ import annotations

from pathlib import Path

import pytest

from worker.core.errors import SettingsError
from worker.settings import Settings, load_settings

REPOSITORY = Path(__file__).resolve().parents[3]
MODEL = "default_model: m\nmodels: {m: {path: here}}\n"


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    path = tmp_path / "config.yaml"
    path.write_text(MODEL + text, encoding="utf-8")
    return load_settings(path, environ)


def test_the_shipped_file_shows_the_defaults_of_inputs_and_cache(tmp_path: Path) -> None:
    shipped, bare = load_settings(REPOSITORY / "config.yaml", {}), load(tmp_path, "")
    assert (shipped.inputs, shipped.cache) == (bare.inputs, bare.cache)
    assert not bare.inputs.is_direct
    assert bare.cache.is_on


@pytest.mark.parametrize("text", ["cache: {max_bytes: 0}", "cache: {max_age_s: 0}"])
def test_zero_in_either_key_turns_the_cache_off(tmp_path: Path, text: str) -> None:
    assert not load(tmp_path, text).cache.is_on


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("inputs: {from: disk}", {}, "config.yaml: inputs.from: expected one of site, pacs"),
        ("inputs: {form: pacs}", {}, "inputs.form: unknown key, did you mean 'from'?"),
        ("inputs: {from: pacs}", {}, "config.yaml: orthanc.url: expected an address such as"),
        ("cache: {max_bytes: -1}", {}, "cache.max_bytes: expected a whole number >= 0, got -1"),
        ("orthanc: {ca_file: nowhere}", {}, "orthanc.ca_file: expected a file that exists"),
        (
            "inputs: {from: pacs}\northanc: {url: 'http://u:geheim@pacs'}",
            {},
            "orthanc.url: expected an address without a password in it",
        ),
        ("inputs: {from: pacs}", {"ORTHANC_URL": "pacs:8042"}, "ORTHANC_URL: expected an address"),
    ],
)
def test_each_mistake_is_named(
    tmp_path: Path, text: str, environ: dict[str, str], expected: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, **environ)
    (problem,) = caught.value.problems
    assert expected in problem
    assert "geheim" not in problem


def test_an_address_that_nothing_uses_need_not_be_there(tmp_path: Path) -> None:
    assert load(tmp_path, "inputs: {from: site}").orthanc.url is None
