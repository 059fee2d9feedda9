"""Where the images come from: ``inputs``, ``cache`` and ``orthanc`` of ``config.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from worker.settings import Environment
    from worker.settings_reader import Section

FROM_SITE, FROM_PACS = "site", "pacs"
DEFAULT_CACHE_BYTES = 2_000_000_000
DEFAULT_CACHE_AGE_S = 86_400


@dataclass(frozen=True, kw_only=True)
class InputSettings:
    """Which way the images come: ``site`` (pseudonymised) or ``pacs`` (as they are)."""

    source: str

    @property
    def is_direct(self) -> bool:
        """Whether this worker fetches from the PACS itself."""
        return self.source == FROM_PACS


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """How much of what was fetched is kept, and how long after it was fetched, in seconds."""

    max_bytes: int
    max_age_s: int

    @property
    def is_on(self) -> bool:
        """Whether anything is kept at all."""
        return self.max_bytes > 0 and self.max_age_s > 0


@dataclass(frozen=True, kw_only=True)
class OrthancSettings:
    """The PACS to fetch from where `InputSettings.is_direct`."""

    url: str | None
    user: str | None
    password: str | None = field(repr=False)
    ca_file: Path | None = None


def read_inputs(section: Section) -> InputSettings:
    """Read ``inputs``."""
    settings = InputSettings(source=section.choice("from", FROM_SITE, (FROM_SITE, FROM_PACS)))
    section.end()
    return settings


def read_cache(section: Section) -> CacheSettings:
    """Read ``cache``; 0 in either key turns it off."""
    settings = CacheSettings(
        max_bytes=section.whole("max_bytes", DEFAULT_CACHE_BYTES),
        max_age_s=section.whole("max_age_s", DEFAULT_CACHE_AGE_S),
    )
    section.end()
    return settings


def read_orthanc(
    section: Section, env: Environment, base: Path, *, is_needed: bool
) -> OrthancSettings:
    """Read ``orthanc`` and its variables; an address must be there if images come from it."""
    if section.raw("password") is not None:
        env.problems.add_sentence(
            f"{section.key('password')}: secrets don't belong in this file; set ORTHANC_PASSWORD"
        )
    from_env = env.text("ORTHANC_URL")
    url = from_env or section.text("url", None)
    key = "ORTHANC_URL" if from_env else section.key("url")
    if is_needed:
        _check_address(key, url, env)
    ca_file = section.path("ca_file", None, base=base)
    if ca_file is not None and not ca_file.is_file():
        env.problems.add(section.key("ca_file"), "a file that exists", str(ca_file))
    settings = OrthancSettings(
        url=url.rstrip("/") if url else None,
        user=env.text("ORTHANC_USER") or section.text("user", None),
        password=env.text("ORTHANC_PASSWORD"),
        ca_file=ca_file,
    )
    section.end()
    return settings


def _check_address(key: str, url: str | None, env: Environment) -> None:
    expected = "an address such as http://127.0.0.1:8042, since inputs.from is pacs"
    fault = address_fault(url or "")
    if fault == "secret":
        env.problems.add(key, "an address without a password in it", "one with a password")
    elif fault is not None:
        env.problems.add(key, expected, url)


def address_fault(url: str) -> str | None:
    """Say what is wrong with the address of a server: ``secret``, ``address`` or nothing."""
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname)
        has_secret = parts.password is not None
        _ = parts.port  # raises ValueError where it isn't a number below 65536
    except ValueError:
        return "address"
    if has_secret:
        return "secret"
    return None if is_good else "address"
