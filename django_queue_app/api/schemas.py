"""Bodies of the front end's calls (CONTRACT 2.1), and the types that all bodies are made of.

What callers send beside is ignored.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from ninja import Schema
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from django_queue_app.models import PRIORITY_MAX, PRIORITY_MIN

# More sequences than any network here has channels; a list is copied into every answer.
MOST_SERIES = 32


def _without_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain NUL")
    return value


_NoNul = AfterValidator(_without_nul)  # PostgreSQL can't store it
Id = Annotated[str, StringConstraints(max_length=64), _NoNul]
Name = Annotated[str, StringConstraints(max_length=100), _NoNul]
ShortText = Annotated[str, StringConstraints(max_length=200), _NoNul]
LongText = Annotated[str, StringConstraints(max_length=4000), _NoNul]
# A failure must get through however long its reason is; the service layer keeps its beginning.
Reason = Annotated[str, StringConstraints(max_length=1_000_000)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]
StageName = Literal["downloading", "loading", "inferring", "writing", "uploading"]
StatusName = Literal["pending", "processing", "completed", "failed", "cancelled"]
LaneName = Literal["lab", "cloud"]
OrderName = Literal["given", "auto"]


class Body(BaseModel):
    """A body that is sent. Not ninja's `Schema`, which takes any value for an object."""


# --- errors ---------------------------------------------------------------------------------------
class Failure(Schema):
    """Why a request failed."""

    code: str
    message: str


class Error(Schema):
    """Every refusal: `code` is stable, `error` is for a person."""

    success: Literal[False]
    error: str
    code: str


class WaitError(Error):
    """A segment call that could not be answered with a result."""

    request_id: UUID | None = None
    status: StatusName | None = None
    status_url: str | None = None
    failure: Failure | None = None


# --- front end: what it sends ---------------------------------------------------------------------
class SegmentBody(Body):
    """Which series make up the input, in the network's channel order unless `order` is auto."""

    sequence_series_ids: Annotated[list[Id], Field(max_length=MOST_SERIES)] | None = None
    model: Name | None = None
    order: OrderName | None = None
    priority: Annotated[int, Field(ge=PRIORITY_MIN, le=PRIORITY_MAX)] | None = None
    force: bool | None = None


class SegmentInstancesBody(Body):
    """The same, by one instance of each series."""

    sequence_instance_ids: Annotated[list[Id], Field(max_length=MOST_SERIES)] | None = None
    model: Name | None = None
    order: OrderName | None = None
    priority: Annotated[int, Field(ge=PRIORITY_MIN, le=PRIORITY_MAX)] | None = None
    force: bool | None = None


# --- front end: what it gets ----------------------------------------------------------------------
class Segment(Schema):
    """One segment of the mask."""

    number: int
    label: str
    code: dict[str, str]
    voxels: int
    volume_ml: float


class Model(Schema):
    """Which model made the mask; empty strings where an existing worker didn't say."""

    name: str
    version: str
    sha256: str


class ResultInput(Schema):
    """Which series fed which channel, and what its header says that it is."""

    channel: str
    series_id: str
    sequence: str | None
    confidence: float


class Result(Schema):
    """The answer of a finished request."""

    success: Literal[True]
    request_id: UUID
    series_id: str
    status: Literal["completed"]
    tumor_detected: bool
    tumor_volume_voxels: int
    tumor_volume_ml: float | None
    segments: list[Segment]
    seg_instance_id: str | None
    saved_to_pacs: bool
    saved_to_orthanc: bool
    elapsed_time_seconds: float | None
    total_slices: int | None
    start_slice_index: int | None
    end_slice_index: int | None
    processed_by: str
    model: Model
    inputs: list[ResultInput]
    warnings: list[str]
    deduplicated: bool | None = None


class Filed(Schema):
    """A request that goes on without the caller."""

    success: Literal[True]
    request_id: UUID
    series_id: str
    status: StatusName
    lane: LaneName
    deduplicated: bool
    status_url: str


class RequestSummary(Schema):
    """One request as the list shows it."""

    request_id: UUID
    series_id: str
    main_series_id: str
    series_ids: list[str]
    order: OrderName
    status: StatusName
    lane: LaneName
    model: str
    priority: int
    stage: str | None
    progress: float
    attempts: int
    max_attempts: int
    requested_at: datetime
    requested_by: str
    started_at: datetime | None
    finished_at: datetime | None
    processed_by: str
    retry_of: UUID | None
    seg_instance_id: str | None
    tumor_detected: bool | None
    failure: Failure | None
    status_url: str


class ArtifactLink(Schema):
    """Where one result file is."""

    name: str
    url: str


class RequestStatus(RequestSummary):
    """One request with its result."""

    success: Literal[True]
    place_in_queue: int | None
    elapsed_seconds: float
    expected_seconds: float | None
    result: Result | None
    artifacts: list[ArtifactLink]


class RequestPage(Schema):
    """One page of requests, newest first."""

    success: Literal[True]
    count: int
    requests: list[RequestSummary]
    next: str | None


class Changed(Schema):
    """What a request is now."""

    success: Literal[True]
    request_id: UUID
    status: StatusName


class SeriesItem(Schema):
    """A series that can be segmented."""

    id: str
    study_id: str
    patient_id: str
    study_uid: str
    series_uid: str
    description: str
    modality: str
    slices: int
    sequence_type: str | None
    sequence_confidence: float | None


class SeriesList(Schema):
    """The series of the PACS that can be segmented."""

    success: Literal[True]
    count: int
    series: list[SeriesItem]


class Frame(Schema):
    """The mask on one source slice, as PNG."""

    index: int
    mask_base64: str


class Frames(Schema):
    """The mask on every source slice, in their order along the normal."""

    success: Literal[True]
    num_frames: int
    frames: list[Frame]


# --- health ---------------------------------------------------------------------------------------
class Problem(Schema):
    """Something that is wrong, in plain words."""

    code: str
    message: str


class WorkerOnline(Schema):
    """A worker that called lately."""

    name: str
    lane: LaneName
    version: str
    device: str
    models: list[str]
    last_seen_seconds_ago: float


class Health(Schema):
    """What is up; anonymous callers get `success`, `ok` and `version` only."""

    success: Literal[True]
    ok: bool
    version: str
    queue: dict[str, dict[str, int]] | None = None
    workers: list[WorkerOnline] | None = None
    pacs_reachable: bool | None = None
    deidentify: bool | None = None
    problems: list[Problem] | None = None
    least_worker_version: str | None = None  # empty: any
    lane: LaneName | None = None  # of the calling worker's token
