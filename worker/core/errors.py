"""Errors that carry the decision: what happens to the job, and how the program ends.

Each class says whether its job may be tried again (`is_retryable`), what the site stores as the
reason (`code`) and, where it ends the program, the exit code (CONTRACT, section 3).
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_BAD_DATA = 64
EXIT_SERVER_UNAVAILABLE = 69
EXIT_ENGINE_BROKEN = 70
EXIT_CREDENTIALS_REFUSED = 77
EXIT_BAD_SETTINGS = 78


class WorkerError(Exception):
    """Base of every error that this program raises on purpose.

    Parameters
    ----------
    message : str
        One sentence a person can act on, without patient data.
    code : str, optional
        Stable snake_case reason; the class's own by default.
    """

    code = "failed"
    is_retryable = True
    exit_code = 1

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class SettingsError(WorkerError):
    """The configuration can't be used; every problem found is listed."""

    code = "bad_settings"
    is_retryable = False
    exit_code = EXIT_BAD_SETTINGS

    def __init__(self, problems: list[str] | str, *, code: str | None = None) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems), code=code)


class Unauthorized(WorkerError):
    """The site refused this worker's credentials (HTTP 401, or 403 for the token itself)."""

    code = "credentials_refused"
    is_retryable = False
    exit_code = EXIT_CREDENTIALS_REFUSED


class WorkerTooOld(WorkerError):
    """The site asks for a newer worker (HTTP 426)."""

    code = "worker_too_old"
    is_retryable = False
    exit_code = EXIT_CREDENTIALS_REFUSED


class ServerUnavailable(WorkerError):
    """No usable answer from the site: network, 5xx, 429, or a proxy's page instead of JSON."""

    code = "server_unavailable"
    exit_code = EXIT_SERVER_UNAVAILABLE

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LeaseLost(WorkerError):
    """Another worker holds this request now (HTTP 412): drop the job, go on."""

    code = "lease_lost"
    is_retryable = False


class Cancelled(WorkerError):
    """The request was cancelled or is finished (HTTP 410): drop the job, go on."""

    code = "cancelled"
    is_retryable = False


class ResultRefused(WorkerError):
    """The site read the result and refused it (HTTP 403, 409, 413, 422): keep it and say so."""

    code = "result_refused"
    is_retryable = False


class InputUnavailable(WorkerError):
    """An input could not be fetched whole: it is missing, or its digest is not the manifest's."""

    code = "input_unavailable"


class DiskFull(WorkerError):
    """The disk of the work folder has no room: nothing half is left, and nothing new is begun."""

    code = "disk_full"


class PacsUnavailable(InputUnavailable):
    """No usable answer from the PACS that this worker fetches from."""

    code = "pacs_unavailable"


class PacsCredentialsRefused(SettingsError):
    """The PACS refused this worker's credentials: the case is given back and the program ends."""

    code = "pacs_credentials_refused"
    exit_code = EXIT_CREDENTIALS_REFUSED


class SeriesInvalid(WorkerError):
    """The images can't be segmented as they are; trying again changes nothing."""

    code = "series_invalid"
    is_retryable = False
    exit_code = EXIT_BAD_DATA


class ModelInvalid(WorkerError):
    """The model can't be used: missing, changed since it was pinned, or without codes."""

    code = "model_invalid"
    is_retryable = False
    exit_code = EXIT_BAD_SETTINGS


class EngineOutOfMemory(WorkerError):
    """The network did not fit into the device's memory."""

    code = "out_of_memory"


class EngineHung(WorkerError):
    """The child made no progress for longer than allowed and was killed."""

    code = "engine_hung"


class EngineCrashed(WorkerError):
    """The child process ended in the middle of a case."""

    code = "engine_crashed"


class EngineBroken(WorkerError):
    """The device is in a bad state (a CUDA fault): its process must end, in the end the program."""

    code = "engine_broken"
    exit_code = EXIT_ENGINE_BROKEN


class EngineNotStarting(EngineBroken):
    """The child process does not come up: a fresh one would not either."""
