"""The whole configuration as frozen values: ``config.yaml``, overridden by the environment.

Every mistake is reported at once, each with its key, what was expected and what it got. Secrets
come from the environment or from a file named by ``server.token_file``, never from the YAML, and
their values appear in no message and no ``repr``.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from worker.core.errors import SettingsError
from worker.core.segments import SegmentSpec
from worker.language import AUTO, LANGUAGES
from worker.settings_inference import InferenceSettings, read_inference
from worker.settings_inputs import (
    CacheSettings,
    InputSettings,
    OrthancSettings,
    address_fault,
    read_cache,
    read_inputs,
    read_orthanc,
)
from worker.settings_models import ModelSettings, read_models
from worker.settings_reader import Problems, Section, as_number, read_yaml

__all__ = [
    "CacheSettings",
    "Credentials",
    "Environment",
    "InferenceSettings",
    "InputSettings",
    "LogSettings",
    "MetricsSettings",
    "ModelSettings",
    "OrthancSettings",
    "SegmentSpec",
    "ServerSettings",
    "Settings",
    "WorkerSettings",
    "find_config",
    "load_settings",
]

CONFIG_NAME = "config.yaml"
DEFAULT_URL = "http://127.0.0.1:8000"
LANES = ("lab", "cloud")
# The site holds a claim for at most 25 s (CONTRACT 2.2).
LONGEST_WAIT_S = 25.0


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What this worker shows the site: a token alone (Bearer) or a name with it (Basic)."""

    token: str = field(repr=False)
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where the site is and how long to wait for it; durations in seconds."""

    url: str
    credentials: Credentials | None
    ca_file: Path | None
    wait_s: float
    poll_interval_s: float
    connect_timeout_s: float
    read_timeout_s: float
    start_timeout_s: float
    retry_longest_s: float


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Who this worker is and where it keeps what it works on."""

    name: str
    lane: str
    work_dir: Path
    drain_s: float
    downloads: int
    prefetch: int
    least_free_mb: int


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """Where the log goes."""

    level: str
    format: str
    file: Path
    max_bytes: int
    backups: int
    language: str = AUTO


@dataclass(frozen=True, kw_only=True)
class MetricsSettings:
    """Where Prometheus finds this worker; nowhere while `port` is None."""

    port: int | None
    address: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be configured."""

    server: ServerSettings
    worker: WorkerSettings
    inference: InferenceSettings
    models: Mapping[str, ModelSettings]
    default_model: str
    log: LogSettings
    metrics: MetricsSettings
    inputs: InputSettings
    cache: CacheSettings
    orthanc: OrthancSettings
    config_path: Path


def find_config(path: Path | None = None) -> Path:
    """Give the configuration file: the one named, ``./config.yaml``, or the project's own."""
    if path is not None:
        return path.resolve()
    here = Path(CONFIG_NAME).resolve()
    return here if here.exists() else Path(__file__).resolve().parents[1] / CONFIG_NAME


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the configuration.

    Parameters
    ----------
    path : Path, optional
        Else `find_config` chooses.
    environ : mapping of str to str, optional
        Environment variables; the process's own by default.

    Raises
    ------
    SettingsError
        Naming every problem found.
    """
    config_path = find_config(path)
    problems = Problems(config_path.name)
    root = Section(_read(config_path, problems), path="", problems=problems)
    env = Environment(os.environ if environ is None else environ, problems)
    settings = _settings(root, env, config_path)
    root.end()
    _check_default_model(settings, problems)
    if problems.lines:
        raise SettingsError(problems.lines)
    return settings


def _read(path: Path, problems: Problems) -> Mapping[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SettingsError(f"There is no configuration file {path}.") from None
    except OSError as error:
        raise SettingsError(f"{path}: not readable ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path}: not UTF-8 text: open it in an editor and save it as UTF-8."
        ) from error
    body = read_yaml(text, problems)
    if problems.lines:
        # Nothing else in a file that does not parse is worth reporting.
        raise SettingsError(problems.lines)
    return body


class Environment:
    """Environment variables that override the file; blank ones count as absent."""

    def __init__(self, values: Mapping[str, str], problems: Problems) -> None:
        self._values = values
        self.problems = problems

    def text(self, name: str) -> str | None:
        """Give a variable's value, None where it is blank."""
        return self._values.get(name, "").strip() or None

    def number(self, name: str, default: float | None, *, most: float = 1e9) -> float | None:
        """Give a variable's number > 0 and <= `most`, or the default."""
        text = self.text(name)
        if text is None:
            return default
        number = as_number(0, most)(text)
        if number is None:
            limit = f" and <= {most:g}" if most < 1e9 else ""
            self.problems.add(name, f"a number > 0{limit}", text)
        return number if number is not None else default


def _settings(root: Section, env: Environment, config_path: Path) -> Settings:
    base = config_path.parent
    models = read_models(root, base)
    default_model = root.text("default_model", next(iter(models), "")) or ""
    return Settings(
        server=_server(root.section("server"), env, base),
        worker=(worker := _worker(root.section("worker"), base)),
        inference=read_inference(root.section("inference"), env),
        models=MappingProxyType(_with_model_path(models, default_model, env)),
        default_model=default_model,
        log=_log(root.section("log"), worker, base),
        metrics=_metrics(root.section("metrics")),
        inputs=(inputs := read_inputs(root.section("inputs"))),
        cache=read_cache(root.section("cache")),
        orthanc=read_orthanc(root.section("orthanc"), env, base, is_needed=inputs.is_direct),
        config_path=config_path,
    )


def _server(section: Section, env: Environment, base: Path) -> ServerSettings:
    poll = section.number("poll_interval_s", 5)
    if section.raw("token") is not None:
        env.problems.add_sentence(
            f"{section.key('token')}: secrets don't belong in this file; set WORKER_TOKEN, or put "
            "the token into a file of its own and name that in server.token_file"
        )
    settings = ServerSettings(
        url=_url(section, env),
        credentials=_credentials(section, env, base),
        ca_file=_existing(section, "ca_file", base, env.problems),
        wait_s=section.number("wait_s", 20, most=LONGEST_WAIT_S),
        poll_interval_s=env.number("POLL_INTERVAL", poll) or poll,
        connect_timeout_s=section.number("connect_timeout_s", 5),
        read_timeout_s=section.number("read_timeout_s", 60),
        start_timeout_s=section.number("start_timeout_s", 30),
        retry_longest_s=section.number("retry_longest_s", 60),
    )
    section.end()
    return settings


def _url(section: Section, env: Environment) -> str:
    written = section.text("url", DEFAULT_URL)
    from_env = env.text("DJANGO_API_URL")
    url = (from_env or written).rstrip("/")
    key = "DJANGO_API_URL" if from_env else section.key("url")
    fault = address_fault(url)
    if fault == "secret":
        env.problems.add(key, "an address without a password in it", "one with a password")
    elif fault is not None:
        env.problems.add(key, "an address such as https://mri.example.org", url)
    return url


def _existing(section: Section, name: str, base: Path, problems: Problems) -> Path | None:
    path = section.path(name, None, base=base)
    if path is not None and not path.is_file():
        problems.add(section.key(name), "a file that exists", str(path))
    return path


def _credentials(section: Section, env: Environment, base: Path) -> Credentials | None:
    token_file = _existing(section, "token_file", base, env.problems)
    token = env.text("WORKER_TOKEN")
    if token is not None:
        return _checked(Credentials(token=token), "WORKER_TOKEN", env.problems)
    pair = env.text("DJANGO_API_AUTH")
    if pair is not None:
        name, colon, secret = pair.partition(":")
        if not (name and colon and secret):
            env.problems.add("DJANGO_API_AUTH", "name:token", "something without both parts")
            return None
        return _checked(Credentials(token=secret, name=name), "DJANGO_API_AUTH", env.problems)
    if token_file is not None and token_file.is_file():
        text = token_file.read_text(encoding="utf-8-sig").strip()
        return _checked(Credentials(token=text), section.key("token_file"), env.problems)
    return None


def _checked(credentials: Credentials, key: str, problems: Problems) -> Credentials | None:
    # A line break or a letter outside ASCII can't travel in an Authorization header.
    if re.fullmatch(r"[\x21-\x7e]+", credentials.token):
        return credentials
    problems.add(key, "a token of printable ASCII characters without spaces", "something else")
    return None


def _worker(section: Section, base: Path) -> WorkerSettings:
    settings = WorkerSettings(
        name=section.text("name", socket.gethostname() or "worker"),
        lane=section.choice("lane", "lab", LANES),
        work_dir=section.path("work_dir", "var/worker", base=base) or base,
        drain_s=section.number("drain_s", 30),
        downloads=section.whole("downloads", 4, least=1),
        prefetch=section.whole("prefetch", 2),
        least_free_mb=section.whole("least_free_mb", 300),
    )
    section.end()
    return settings


def _log(section: Section, worker: WorkerSettings, base: Path) -> LogSettings:
    settings = LogSettings(
        level=section.choice("level", "info", ("debug", "info", "warning", "error")),
        format=section.choice("format", "text", ("text", "json")),
        file=section.path("file", None, base=base) or worker.work_dir / "logs" / "worker.log",
        max_bytes=section.whole("max_bytes", 5_000_000, least=10_000),
        backups=section.whole("backups", 5, least=1),
        language=section.choice("language", AUTO, (AUTO, *LANGUAGES)),
    )
    section.end()
    return settings


def _metrics(section: Section) -> MetricsSettings:
    settings = MetricsSettings(
        port=section.parsed("port", None, _as_port, "a port, 1 to 65535"),
        address=section.text("address", "127.0.0.1"),
    )
    section.end()
    return settings


def _as_port(value: object) -> int | None:
    is_port = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536
    return value if isinstance(value, int) and is_port else None


def _with_model_path(
    models: dict[str, ModelSettings], default_model: str, env: Environment
) -> dict[str, ModelSettings]:
    """Let MODEL_PATH stand for the default model's path; a relative one starts where we are."""
    text = env.text("MODEL_PATH")
    if text is None or default_model not in models:
        return models
    path = Path(text).expanduser().resolve()
    return models | {default_model: models[default_model].at(path)}


def _check_default_model(settings: Settings, problems: Problems) -> None:
    if settings.default_model not in settings.models:
        known = ", ".join(settings.models) or "none yet"
        problems.add("default_model", f"a name under models ({known})", settings.default_model)
