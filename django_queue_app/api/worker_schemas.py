"""Bodies of the workers' calls (CONTRACT 2.2). What callers send beside is ignored."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from ninja import Schema
from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from django_queue_app.api.open_forms import (
    coded,
    digests_by_name,
    empty_if_null,
    names_of,
    no_list_if_null,
    result_and_artifacts,
)
from django_queue_app.api.schemas import (
    MOST_SERIES,
    Amount,
    Body,
    Count,
    Fraction,
    Id,
    LongText,
    Name,
    OrderName,
    Reason,
    Sha256,
    ShortText,
    StageName,
    StatusName,
)

MOST_SEGMENTS = 1024
# Instances in one answer: an old scanner's slices are small, and each is a query or two.
MOST_AT_ONCE = 64


class WorkerBody(Body):
    """A worker's description of itself."""

    name: Annotated[Name, Field(min_length=1)]
    version: Annotated[Id, BeforeValidator(empty_if_null)] = ""
    device: Annotated[ShortText, BeforeValidator(empty_if_null)] = ""
    models: Annotated[
        list[Name], Field(max_length=200, default_factory=list), BeforeValidator(names_of)
    ]


class ClaimBody(Body):
    """Who asks for work."""

    worker: WorkerBody


class LeaseGrant(Schema):
    """The lease; durations in seconds, since only the server's clock counts."""

    id: UUID
    expires_in: float
    deadline_in: float


class ManifestInstance(Schema):
    """One input instance as it will be served."""

    id: str
    bytes: int
    sha256: str


class ManifestSeries(Schema):
    """One input series."""

    series_id: str
    instances: list[ManifestInstance]


class InstancesBody(Body):
    """Which instances a worker wants in one answer."""

    instance_ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_AT_ONCE)]


class Claimed(Schema):
    """A granted claim; with `direct_fetch` the worker may read the instances from the PACS.

    It may ask for up to `instances_at_once` of them in one call.
    """

    success: Literal[True]
    request_id: UUID
    series_ids: list[str]
    main_series_id: str
    order: OrderName
    model: str
    attempt: int
    lease: LeaseGrant
    manifest: list[ManifestSeries]
    direct_fetch: bool
    instances_at_once: int


class HeartbeatBody(Body):
    """How far the worker has come; what it leaves out stays as it was."""

    stage: StageName | None = None
    progress: Fraction | None = None


class Renewed(Schema):
    """How long the lease is good for now, in seconds."""

    success: Literal[True]
    expires_in: float


class FailureBody(Body):
    """Why the worker could not do it; where it can't say whether to try again, attempts decide.

    `message_ko` says in Korean what `message` says in English; pages in Korean show it.
    """

    code: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,64}$")]
    message: Reason = ""
    message_ko: Annotated[Reason, BeforeValidator(empty_if_null)] = ""
    retryable: bool = True


class SegmentResult(Body):
    """One segment as the worker measured it."""

    number: Annotated[int, Field(ge=1, le=65535)]
    label: ShortText
    code: Annotated[dict[ShortText, ShortText], Field(max_length=8), BeforeValidator(coded)]
    voxels: Count
    volume_ml: Amount


class ModelResult(Body):
    """Which model made the mask."""

    name: ShortText
    version: ShortText
    sha256: ShortText


class InputResult(Body):
    """Which series the worker fed to which channel of the network."""

    channel: ShortText
    series_id: Id
    sequence: ShortText | None = None
    confidence: Fraction = 0.0


class ResultBody(Body):
    """What the worker found (CONTRACT 2.1); slice indices count from 0 along the normal.

    `warnings_ko` says each of `warnings` in Korean, in their order.
    """

    tumor_detected: bool
    tumor_volume_voxels: Count
    tumor_volume_ml: Amount | None = None
    segments: Annotated[list[SegmentResult], Field(max_length=MOST_SEGMENTS, default_factory=list)]
    elapsed_time_seconds: Amount | None = None
    total_slices: Count | None = None
    start_slice_index: Count | None = None
    end_slice_index: Count | None = None
    model: ModelResult | None = None
    inputs: Annotated[list[InputResult], Field(max_length=MOST_SERIES, default_factory=list)]
    warnings: Annotated[list[LongText], Field(max_length=100, default_factory=list)]
    warnings_ko: Annotated[
        list[LongText],
        Field(max_length=100, default_factory=list),
        BeforeValidator(no_list_if_null),
    ]
    timings: Annotated[dict[Name, Amount], Field(max_length=50, default_factory=dict)]
    peak_memory_bytes: Count | None = None


class CompleteBody(Body):
    """The end of a request: a worker's of ours (with a lease), or an existing worker's."""

    success: bool
    result: ResultBody | None = None
    artifacts: Annotated[
        Annotated[dict[Name, Sha256], Field(max_length=16)] | None,
        BeforeValidator(digests_by_name),
    ] = None
    failure: FailureBody | None = None
    # What existing workers send:
    seg_instance_id: Id | None = None
    tumor_detected: bool | None = None
    tumor_volume_voxels: Count | None = None
    elapsed_time_seconds: Amount | None = None
    error: Reason | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_one_form(cls, value: Any) -> Any:
        return result_and_artifacts(value)


class Completed(Schema):
    """What became of a result: `accepted`, `replay`, `superseded`; or `failed` was noted."""

    success: Literal[True]
    request_id: UUID
    status: StatusName
    outcome: str


class Uploaded(Schema):
    """An artifact that is kept."""

    success: Literal[True]
    name: str
    bytes: int
    sha256: str


class PendingRequest(Schema):
    """A request as existing workers know it."""

    request_id: UUID
    series_ids: list[str]
    main_series_id: str
    requested_at: datetime
    requested_by: str


class PendingRequests(Schema):
    """The list that existing workers walk."""

    success: Literal[True]
    count: int
    requests: list[PendingRequest]


class UpdateStatusBody(Body):
    """An existing worker says that it has begun; its clock is not used."""

    status: Literal["processing"]
    started_at: ShortText | float | None = None


class InferencePending(Schema):
    """The next request for the oldest workers; `id` is null when there is none."""

    success: Literal[True]
    id: UUID | None
    series_id: str | None = None
    series_ids: list[str] | None = None


class InferenceCompleteBody(Body):
    """The end of a request as the oldest workers post it."""

    success: bool
    seg_instance_id: Id | None = None
    tumor_detected: bool | None = None
    tumor_volume_voxels: Count | None = None
    inference_time_seconds: Amount | None = None
    error: Reason | None = None
