"""What a front end does: list the series, file a request, follow it, fetch the files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests

from demo.children import DemoError

API = "/api/mri/segmentation/"
ENDED = frozenset({"completed", "failed", "cancelled"})
_POLL_S = 0.3


@dataclass(frozen=True, kw_only=True)
class State:
    """What the site tells of a request while it goes on."""

    status: str
    stage: str
    progress: float
    body: Mapping[str, Any]


class FrontEnd:
    """The site's front-end calls, by a user's token.

    Parameters
    ----------
    address : str
        The site, as `http://127.0.0.1:8000`.
    token : str
    """

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy would not reach this machine's loopback
        self._session.headers["Authorization"] = f"Bearer {token}"

    def is_up(self) -> bool:
        """Say whether the site answers at all."""
        try:
            answer = self._session.get(urljoin(self._address, API + "health/"), timeout=10)
        except requests.RequestException:
            return False
        return answer.status_code < 500

    def is_known(self) -> bool:
        """Say whether the site takes the token."""
        answer = self._session.get(urljoin(self._address, API + "requests/?limit=1"), timeout=30)
        return answer.status_code != 401

    def list_series(self) -> list[dict[str, Any]]:
        """Return the series that can be segmented."""
        found: list[dict[str, Any]] = self._call("GET", "series/")["series"]
        return found

    def cancel_unfinished(self) -> None:
        """Cancel what a killed demonstration had filed."""
        for status in ("pending", "processing"):
            for one in self._call("GET", f"requests/?status={status}&limit=200")["requests"]:
                self._call("POST", f"requests/{one['request_id']}/cancel/", allowed=(409,))

    def file_request(self, series_ids: Sequence[str], model: str) -> str:
        """File a request whose first series is the main one; return its id."""
        body = {"sequence_series_ids": list(series_ids), "model": model, "force": True}
        answer = self._call(
            "POST",
            f"series/{series_ids[0]}/segment/",
            json=body,
            headers={"Prefer": "respond-async"},
        )
        return str(answer["request_id"])

    def follow(
        self,
        request_id: str,
        *,
        timeout_s: float,
        check: Callable[[], None],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> Iterator[State]:
        """Yield the request's state at each look, the last one ended.

        Raises
        ------
        DemoError
            It took too long; or what `check` raises.
        """
        end = clock() + timeout_s
        while clock() < end:
            check()
            body = self._call("GET", f"status/{request_id}/")
            state = State(
                status=body["status"],
                stage=body.get("stage") or "",
                progress=float(body.get("progress") or 0),
                body=body,
            )
            yield state
            if state.status in ENDED:
                return
            sleep(_POLL_S)
        raise DemoError(f"The request {request_id} was not finished within {timeout_s:.0f} s.")

    def fetch_artifacts(self, status: Mapping[str, Any], into: Path) -> list[Path]:
        """Download every file of a finished request; return where they lie."""
        into.mkdir(parents=True, exist_ok=True)
        return [self._fetch(artifact, into) for artifact in status["artifacts"]]

    def _fetch(self, artifact: Mapping[str, Any], into: Path) -> Path:
        answer = self._session.get(urljoin(self._address, artifact["url"]), timeout=120)
        if answer.status_code != 200:
            raise DemoError(f"{artifact['name']} could not be downloaded ({answer.status_code}).")
        path = into / Path(artifact["name"]).name
        path.write_bytes(answer.content)
        return path

    def _call(
        self, method: str, path: str, *, allowed: Sequence[int] = (), **more: Any
    ) -> dict[str, Any]:
        try:
            answer = self._session.request(
                method, urljoin(self._address, API + path), timeout=60, **more
            )
            body: dict[str, Any] = answer.json()
        except requests.RequestException as error:
            raise DemoError(f"{method} {path}: no usable answer ({error}).") from error
        if answer.ok or answer.status_code in allowed:
            return body
        reason = body.get("error", answer.reason)
        raise DemoError(f"{method} {path}: {answer.status_code}, {reason}")
