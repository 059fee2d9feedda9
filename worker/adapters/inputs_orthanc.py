"""Fetches the images of a job straight from the hospital's Orthanc, where the site allows it.

The images come as they are, with the patient's name in them: they are never cached, and the site
must know of it, since the mask then carries the original identifiers too. Their digests are not
the manifest's (those are of the pseudonymised bytes), so each is checked against the MD5 that
Orthanc keeps, and each series against the manifest's list of instances.

References
----------
https://orthanc.uclouvain.be/book/users/rest.html
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import requests

from worker import __version__
from worker.adapters.inputs_transfer import Counter, Files, check_room, fetch_all, plan_files
from worker.backoff import full_jitter_s
from worker.core.errors import InputUnavailable, PacsCredentialsRefused, PacsUnavailable
from worker.core.job import InputInstance, InputSeries, Job
from worker.ports import InputSource, IsCancelled, OnFraction
from worker.settings import OrthancSettings, ServerSettings

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 18
# Tries of one image or list before the PACS counts as away.
_TRIES = 5
_LONGEST_PAUSE_S = 10.0
_T = TypeVar("_T")
_MD5 = re.compile(r"[0-9a-f]{32}")


class DirectInputs:
    """`ports.InputSource` that asks Orthanc where the site allows it, else the site.

    There is no other way back to the site: an Orthanc that is away is most often away for the
    site, too, and a case that silently took the other way would hide a broken one for months.
    """

    def __init__(self, orthanc: InputSource, site: InputSource) -> None:
        self._orthanc = orthanc
        self._site = site

    def download(
        self, job: Job, target_dir: Path, *, on_progress: OnFraction, is_cancelled: IsCancelled
    ) -> Files:
        """Fetch every instance whole into ``<target_dir>/<series>/<instance>.dcm``."""
        source = self._orthanc if job.may_fetch_directly else self._site
        if not job.may_fetch_directly:
            logger.warning("direct_fetch_not_allowed", extra={"request_id": job.request_id})
        return source.download(job, target_dir, on_progress=on_progress, is_cancelled=is_cancelled)


class OrthancInputs:
    """`ports.InputSource` over Orthanc's REST API.

    Parameters
    ----------
    settings : OrthancSettings
    server : ServerSettings
        For its time limits.
    downloads : int
        Images fetched at the same time, each over a connection that stays open.
    """

    def __init__(
        self,
        settings: OrthancSettings,
        server: ServerSettings,
        *,
        downloads: int = 4,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._settings = settings
        self._timeouts = (server.connect_timeout_s, server.read_timeout_s)
        self._downloads = downloads
        self._sleep = sleep or threading.Event().wait
        self._local = threading.local()

    def download(
        self, job: Job, target_dir: Path, *, on_progress: OnFraction, is_cancelled: IsCancelled
    ) -> Files:
        """Fetch every instance whole into ``<target_dir>/<series>/<instance>.dcm``."""
        files, wanted = plan_files(job, target_dir)
        total = sum(item.size_bytes for item in wanted.values())
        check_room(target_dir, total)
        counter = Counter(total, on_progress, is_cancelled)
        for series in job.series:
            counter.add(0)
            self._check_complete(series)
        fetch_all(
            [partial(self._fetch, item, path, counter) for path, item in wanted.items()],
            threads=self._downloads,
            counter=counter,
        )
        fetched = sum(path.stat().st_size for path in wanted)
        fields = {"request_id": job.request_id, "images": len(wanted), "fetched_bytes": fetched}
        logger.info("inputs_ready", extra=fields)
        return files

    def version(self) -> str:
        """Ask Orthanc for its version, as `doctor` does.

        Raises
        ------
        PacsUnavailable, PacsCredentialsRefused, InputUnavailable
        """
        return str(self._json("/system", "The PACS").get("Version", "of unknown version"))

    def _check_complete(self, series: InputSeries) -> None:
        """See that the series is still the one that the site listed."""
        what = f"The series {series.series_id}"
        found = self._retried(lambda: self._json(f"/series/{series.series_id}", what))
        listed = {item.id for item in series.instances}
        if set(found.get("Instances", ())) != listed:
            raise InputUnavailable(
                f"{what} has {len(found.get('Instances', ()))} images in the PACS and the site "
                f"listed {len(listed)}: it changed in between, or orthanc.url is not the site's "
                "PACS.",
                code="series_changed",
            )

    def _fetch(self, item: InputInstance, target: Path, counter: Counter) -> None:
        self._retried(lambda: self._fetch_once(item, target, counter))

    def _fetch_once(self, item: InputInstance, target: Path, counter: Counter) -> None:
        part = target.with_suffix(".part")
        what = f"The image {item.id}"
        digest, size = hashlib.md5(usedforsecurity=False), 0
        with self._get(f"/instances/{item.id}/file", what) as response, part.open("wb") as file:
            for chunk in response.iter_content(_CHUNK_BYTES):
                counter.add(0)
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        if not self._is_whole(item.id, digest.hexdigest(), size):
            raise PacsUnavailable(f"{what} did not arrive as the PACS has it.")
        part.replace(target)
        # The manifest's sizes are those of other bytes; whole images are progress enough.
        counter.add(item.size_bytes)

    def _is_whole(self, instance_id: str, md5: str, size_bytes: int) -> bool:
        """Compare with the MD5 that Orthanc keeps, or the size where it is told to keep none."""
        attachment, what = f"/instances/{instance_id}/attachments/dicom", f"The image {instance_id}"
        kept = self._text(f"{attachment}/md5", what).strip().lower()
        if _MD5.fullmatch(kept):
            return kept == md5
        return self._text(f"{attachment}/size", what).strip() == str(size_bytes)

    def _retried(self, ask: Callable[[], _T]) -> _T:
        for number in range(1, _TRIES):
            try:
                return ask()
            except PacsUnavailable:
                self._sleep(full_jitter_s(number, base_s=0.5, longest_s=_LONGEST_PAUSE_S))
        return ask()

    def _text(self, path: str, what: str) -> str:
        try:
            with self._get(path, what) as response:
                return response.text
        except _NotThere:
            return ""

    def _json(self, path: str, what: str) -> dict[str, Any]:
        with self._get(path, what) as response:
            try:
                body = response.json()
            except ValueError:
                body = None
        if not isinstance(body, dict):
            raise PacsUnavailable(
                f"The answer of {self._settings.url} is not an Orthanc's: check orthanc.url."
            )
        return body

    @contextmanager
    def _get(self, path: str, what: str) -> Iterator[requests.Response]:
        """Give an answer of status 200; what breaks while it is read is an error of ours, too."""
        url = self._settings.url or ""
        try:
            with self._session().get(
                url + path, timeout=self._timeouts, stream=True, allow_redirects=False
            ) as response:
                self._raise_for_status(response, what)
                yield response
        except requests.RequestException as error:
            raise PacsUnavailable(_network_sentence(url, error)) from error

    def _raise_for_status(self, response: requests.Response, what: str) -> None:
        url = self._settings.url
        match response.status_code:
            case 200:
                return
            case 401:
                raise PacsCredentialsRefused(
                    f"The PACS {url} refused user and password: set ORTHANC_USER and "
                    "ORTHANC_PASSWORD as its administrator gave them."
                )
            case 403:
                raise InputUnavailable(
                    f"{what}: the PACS {url} does not let this worker read it: let its "
                    "administrator allow the user and this machine.",
                    code="pacs_forbidden",
                )
            case 404:
                raise _NotThere(
                    f"{what} is not in the PACS {url}: it was deleted or replaced, or orthanc.url "
                    "is not the site's PACS."
                )
            case status:
                raise PacsUnavailable(f"The PACS {url} can't answer now (status {status}).")

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            # Neither a proxy nor a ~/.netrc has a say in how the hospital's PACS is reached.
            session.trust_env = False
            session.headers["User-Agent"] = f"mri-worker/{__version__}"
            # The bytes are already what they are; compressing them costs the PACS seconds.
            session.headers["Accept-Encoding"] = "identity"
            if self._settings.user is not None:
                session.auth = (self._settings.user, self._settings.password or "")
            if self._settings.ca_file is not None:
                session.verify = str(self._settings.ca_file)
            self._local.session = session
        return session


class _NotThere(InputUnavailable):
    """What was asked for is not in the PACS."""

    code = "instance_missing"


def _network_sentence(url: str, error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return (
            f"The certificate of the PACS {url} can't be verified: name the hospital's "
            "certificate authority in orthanc.ca_file."
        )
    if isinstance(error, requests.exceptions.ReadTimeout):
        return f"The PACS {url} took too long to answer."
    return f"No connection to the PACS {url}: check orthanc.url and that the PACS is running."
