"""Errors that services raise on purpose: each carries its code, HTTP status and two sentences.

A caller matches `code`, a person reads the sentence in English or Korean; neither ever contains
patient data.
"""

from __future__ import annotations


class ServiceError(Exception):
    """Base of every refusal by the service layer.

    Parameters
    ----------
    message : str, optional
        English sentence that says what is wrong and what to do; the class's own by default.
    message_ko : str, optional
        The same in Korean.
    code : str, optional
        Stable snake_case reason; the class's own by default.
    retry_after_s : float, optional
        When trying again makes sense, in seconds.
    """

    code = "failed"
    http_status = 500
    default_message = "The request could not be carried out; try again."
    default_message_ko = "요청을 처리할 수 없습니다. 다시 시도하십시오."

    def __init__(
        self,
        message: str = "",
        message_ko: str = "",
        *,
        code: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.message_ko = message_ko or (message or self.default_message_ko)
        if code:
            self.code = code
        self.retry_after_s = retry_after_s
        super().__init__(self.message)

    def message_in(self, language: str) -> str:
        """Return the sentence in `language` ("ko", "ko-kr", ...), English by default."""
        return self.message_ko if language.lower().startswith("ko") else self.message


class InvalidRequest(ServiceError):
    """A value in the body can't be used."""

    code = "invalid_request"
    http_status = 422
    default_message = "The request's content can't be used; check its values."
    default_message_ko = "요청 내용을 사용할 수 없습니다. 값을 확인하십시오."


class Unauthenticated(ServiceError):
    """No credentials, or none that are known."""

    code = "unauthenticated"
    http_status = 401
    default_message = "Sign in, or send a valid token in the Authorization header."
    default_message_ko = "로그인하거나 Authorization 헤더에 유효한 토큰을 보내십시오."


class WorkerTokenRequired(ServiceError):
    """A user's token was used for a worker's call."""

    code = "worker_token_required"
    http_status = 403
    default_message = "This call is for workers; use a worker token."
    default_message_ko = "워커 전용 호출입니다. 워커 토큰을 사용하십시오."


class NotYourJob(ServiceError):
    """The lease belongs to another worker's token."""

    code = "not_your_job"
    http_status = 403
    default_message = "This lease belongs to another worker; claim a request of your own."
    default_message_ko = "이 작업은 다른 워커에게 배정되었습니다. 새 작업을 요청하십시오."


class RequestNotFound(ServiceError):
    """No request has this id."""

    code = "request_not_found"
    http_status = 404
    default_message = "There is no segmentation request with this id."
    default_message_ko = "해당 ID의 분할 요청이 없습니다."


class ArtifactNotFound(ServiceError):
    """The request has no such artifact."""

    code = "artifact_not_found"
    http_status = 404
    default_message = "This request has no such result file (yet)."
    default_message_ko = "이 요청에는 해당 결과 파일이 (아직) 없습니다."


class WrongState(ServiceError):
    """The request's state doesn't allow this."""

    code = "wrong_state"
    http_status = 409
    default_message = "The request's state does not allow this; read its status again."
    default_message_ko = "현재 상태에서는 할 수 없습니다. 상태를 다시 확인하십시오."


class AlreadyClaimed(WrongState):
    """Another worker has this request."""

    code = "already_claimed"
    default_message = "Another worker has this request; ask for the next one."
    default_message_ko = "다른 워커가 이 요청을 처리 중입니다. 다음 요청을 가져가십시오."


class RequestCancelled(ServiceError):
    """The request was cancelled."""

    code = "cancelled"
    http_status = 410
    default_message = "The request was cancelled; drop this job."
    default_message_ko = "요청이 취소되었습니다. 이 작업을 중단하십시오."


class RequestFinished(ServiceError):
    """The request is finished already."""

    code = "finished"
    http_status = 410
    default_message = "The request is already finished; drop this job."
    default_message_ko = "요청이 이미 끝났습니다. 이 작업을 중단하십시오."


class LeaseNotCurrent(ServiceError):
    """The lease is not the one that holds the request now."""

    code = "lease_not_current"
    http_status = 412
    default_message = "This lease no longer holds the request; drop this job."
    default_message_ko = "이 임대는 더 이상 유효하지 않습니다. 이 작업을 중단하십시오."


class DeadlinePassed(LeaseNotCurrent):
    """The lease can't be renewed any more: the time for one attempt is over."""

    code = "deadline_passed"
    default_message = "The time for this attempt is over; drop this job."
    default_message_ko = "이 시도의 제한 시간이 지났습니다. 이 작업을 중단하십시오."


class LeaseNeverIssued(ServiceError):
    """The lease was never issued for this request."""

    code = "lease_never_issued"
    http_status = 412
    default_message = "This lease was never issued for this request; claim it first."
    default_message_ko = "이 요청에 발급된 적이 없는 임대입니다. 먼저 작업을 요청하십시오."


class ArtifactMissing(ServiceError):
    """A result names an artifact that was not uploaded, or with other bytes."""

    code = "artifact_missing"
    http_status = 422
    default_message = "The result names a file that was not uploaded; upload it first."
    default_message_ko = "결과에 적힌 파일이 업로드되지 않았습니다. 먼저 업로드하십시오."


class StorageUnavailable(ServiceError):
    """The disk or the bucket with the site's files is full, away, or has lost a file."""

    code = "storage_unavailable"
    http_status = 503
    default_message = "The site's file storage can't be used now; try again, or ask who runs it."
    default_message_ko = "사이트의 파일 저장소를 사용할 수 없습니다. 잠시 후 다시 시도하십시오."


class NameTaken(ServiceError):
    """A live token has this name."""

    code = "name_taken"
    http_status = 409
    default_message = "A live token already has this name; revoke it or choose another name."
    default_message_ko = "같은 이름의 유효한 토큰이 있습니다. 폐기하거나 다른 이름을 쓰십시오."


class HistoryIsPermanent(ServiceError):
    """Somebody tried to change or delete an event."""

    code = "history_is_permanent"
    http_status = 409
    default_message = "Events can't be changed or deleted; they are the request's history."
    default_message_ko = "이력은 변경하거나 삭제할 수 없습니다."
