"""What is asked of the worker and what it answers, as frozen values.

`Job` is what the site grants, `Case` is what the child process is told to segment, `CaseResult` is
what it found. All three travel as JSON (over HTTP, over a pipe, into the outbox), so each has
`to_json` and, where it is read back, `from_json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MASK_DICOM = "mask.dcm"
MASK_NIFTI = "mask.nii.gz"
PREVIEW = "preview.png"
REPORT = "report.json"
REPORT_PAGE = "report.html"
ARTIFACTS = (MASK_DICOM, MASK_NIFTI, PREVIEW, REPORT, REPORT_PAGE)

# Whether the series of a request stand in the model's channel order, or are yet to be sorted.
ORDER_GIVEN, ORDER_AUTO = "given", "auto"

STAGES = ("downloading", "loading", "inferring", "writing", "uploading")


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The timed right to work on one request; durations, since only the server's clock counts."""

    id: str
    expires_in_s: float
    deadline_in_s: float


@dataclass(frozen=True, kw_only=True)
class InputInstance:
    """One DICOM instance of the manifest, with the size and digest it must have on arrival."""

    id: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class InputSeries:
    """One series of the manifest."""

    series_id: str
    instances: tuple[InputInstance, ...]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One granted claim.

    `may_fetch_directly` where the site lets workers read its PACS; `instances_at_once` is how many
    it gives in one answer.
    """

    request_id: str
    series: tuple[InputSeries, ...]
    main_series_id: str
    model: str | None
    attempt: int
    lease: Lease
    order: str = ORDER_GIVEN
    may_fetch_directly: bool = False
    instances_at_once: int = 1

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Job:
        """Read the answer of a claim (CONTRACT 2.2). Raises KeyError, TypeError or ValueError."""
        lease = body["lease"]
        return cls(
            request_id=str(body["request_id"]),
            series=tuple(_series(item) for item in body["manifest"]),
            main_series_id=str(body["main_series_id"]),
            model=body.get("model") or None,
            attempt=int(body["attempt"]),
            lease=Lease(
                id=str(lease["id"]),
                expires_in_s=float(lease["expires_in"]),
                deadline_in_s=float(lease["deadline_in"]),
            ),
            order=_order(body),
            may_fetch_directly=body.get("direct_fetch") is True,
            instances_at_once=_at_once(body),
        )

    def to_json(self) -> dict[str, Any]:
        """Give the body that `from_json` reads."""
        return {
            "request_id": self.request_id,
            "manifest": [
                {
                    "series_id": series.series_id,
                    "instances": [
                        {"id": item.id, "bytes": item.size_bytes, "sha256": item.sha256}
                        for item in series.instances
                    ],
                }
                for series in self.series
            ],
            "main_series_id": self.main_series_id,
            "order": self.order,
            "model": self.model,
            "attempt": self.attempt,
            "lease": {
                "id": self.lease.id,
                "expires_in": self.lease.expires_in_s,
                "deadline_in": self.lease.deadline_in_s,
            },
            "direct_fetch": self.may_fetch_directly,
            "instances_at_once": self.instances_at_once,
        }


def _at_once(body: Mapping[str, Any]) -> int:
    """Read how many images come in one answer; who only keeps the contract says nothing of it."""
    number = body.get("instances_at_once")
    return max(1, number) if type(number) is int else 1


def _order(body: Mapping[str, Any]) -> str:
    """Read the order; sites from before it send none. Another word would be sorted wrongly."""
    order = str(body.get("order") or ORDER_GIVEN)
    if order not in (ORDER_GIVEN, ORDER_AUTO):
        raise ValueError(f"order: expected given or auto, got {order[:20]!r}")
    return order


def _series(body: Mapping[str, Any]) -> InputSeries:
    return InputSeries(
        series_id=str(body["series_id"]),
        instances=tuple(
            InputInstance(
                id=str(item["id"]), size_bytes=int(item["bytes"]), sha256=str(item["sha256"])
            )
            for item in body["instances"]
        ),
    )


@dataclass(frozen=True, kw_only=True)
class SeriesFiles:
    """The files of one series on this machine, in any order."""

    series_id: str
    files: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the child process is told to segment.

    `series` is in the order in which the front end named them: the network's channel order, unless
    `order` says that they are to be sorted. `main_series_id` names the one whose grid the mask
    lies on.
    """

    request_id: str
    series: tuple[SeriesFiles, ...]
    main_series_id: str
    model: str
    output_dir: Path
    order: str = ORDER_GIVEN

    def to_json(self) -> dict[str, Any]:
        """Give the body that `from_json` reads."""
        return {
            "request_id": self.request_id,
            "series": [
                {"series_id": item.series_id, "files": [str(path) for path in item.files]}
                for item in self.series
            ],
            "main_series_id": self.main_series_id,
            "model": self.model,
            "order": self.order,
            "output_dir": str(self.output_dir),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Case:
        """Read what `to_json` gave."""
        return cls(
            request_id=body["request_id"],
            series=tuple(
                SeriesFiles(
                    series_id=item["series_id"], files=tuple(Path(path) for path in item["files"])
                )
                for item in body["series"]
            ),
            main_series_id=body["main_series_id"],
            model=body["model"],
            output_dir=Path(body["output_dir"]),
            order=_order(body),
        )


@dataclass(frozen=True, kw_only=True)
class SegmentMeasurement:
    """One segment of the mask: DICOM segment number (from 1), and how much of it there is."""

    number: int
    label: str
    code: Mapping[str, str]  # value, scheme, meaning
    voxels: int
    volume_ml: float


@dataclass(frozen=True, kw_only=True)
class InputUse:
    """Which series fed a channel, and which sequence its header says that it is, 0 to 1 sure."""

    channel: str
    series_id: str
    sequence: str | None
    confidence: float


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which model made the mask."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """What one case gave. Slice indices count from 0 along the normal, None for an empty mask."""

    tumor_detected: bool
    tumor_volume_voxels: int
    tumor_volume_ml: float
    segments: tuple[SegmentMeasurement, ...]
    total_slices: int
    start_slice_index: int | None
    end_slice_index: int | None
    elapsed_time_seconds: float
    model: ModelIdentity
    sop_instance_uid: str
    inputs: tuple[InputUse, ...] = ()
    warnings: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)  # stage -> seconds
    peak_memory_bytes: int = 0
    artifacts: tuple[str, ...] = ARTIFACTS  # file names in the case's output_dir

    def to_json(self) -> dict[str, Any]:
        """Give the `result` of a completion (CONTRACT 2.1), and what the outbox keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> CaseResult:
        """Read what `to_json` gave."""
        values = dict(body)
        values["segments"] = tuple(SegmentMeasurement(**item) for item in body["segments"])
        values["model"] = ModelIdentity(**body["model"])
        values["inputs"] = tuple(InputUse(**item) for item in body.get("inputs", ()))
        values["warnings"] = tuple(body.get("warnings", ()))
        values["artifacts"] = tuple(body.get("artifacts", ARTIFACTS))
        return cls(**values)
