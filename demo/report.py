"""What the demonstration shows on the console."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rich.cells import set_cell_size
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from worker.language import named, said

STAGES = ("downloading", "loading", "inferring", "writing", "uploading")
# Steps below this say nothing about where the time goes.
_LEAST_SHOWN_S = 0.05
NOTICE = "demonstration, not for clinical use"
_LABEL_CELLS = 14


class ProgressLine:
    """A bar on a terminal; elsewhere one line per stage.

    Parameters
    ----------
    stream : text file
    tell : callable
        Prints one line where there is no terminal.
    """

    def __init__(self, stream: IO[str], tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._last = ""
        self._progress: Progress | None = None
        if stream.isatty():
            columns = (
                TextColumn("          {task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
            )
            self._progress = Progress(*columns, console=Console(file=stream), transient=False)
            self._task = self._progress.add_task(named("stage", "pending"), total=1.0)

    def __enter__(self) -> ProgressLine:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, status: str, stage: str, progress: float) -> None:
        """Show one look at the request."""
        name = stage if status == "processing" and stage else status
        if self._progress is not None:
            done = 1.0 if status == "completed" else overall(name, progress)
            text = set_cell_size(named("stage", name), _LABEL_CELLS)
            self._progress.update(self._task, description=text, completed=done)
        elif name != self._last:
            self._tell(named("stage", name))
        self._last = name


def overall(stage: str, progress: float) -> float:
    """Place a stage's own progress on the whole bar, each stage an equal part."""
    if stage not in STAGES:
        return 0.0
    return (STAGES.index(stage) + min(max(progress, 0.0), 1.0)) / len(STAGES)


def describe_result(
    status: Mapping[str, Any], *, files: Sequence[Path], request_seconds: float
) -> str:
    """Write the finished request as a person reads it.

    Parameters
    ----------
    status : mapping
        The body of `GET status/{request_id}/`.
    files : sequence of Path
        The artifacts as they were downloaded.
    request_seconds : float
        From the POST to the finished answer.
    """
    result = status["result"]
    model = result["model"]
    rows = [
        ("request", status["request_id"]),
        *_segment_rows(result),
        ("model", f"{model['name']} {model['version']} ({said(NOTICE)})"),
        ("", f"sha256 {model['sha256']}"),
        ("processed by", str(result["processed_by"])),
        ("timings", _timings(result, files, request_seconds)),
        *(("warning", said(text)) for text in result["warnings"]),
        *(("files" if index == 0 else "", str(path)) for index, path in enumerate(files)),
    ]
    lines = (f"  {_named(name)} {text}".rstrip() for name, text in rows)
    return "\n".join([named("result", "Result"), *lines])


def describe_page(address: str, access: str) -> str:
    """Write where the page is, and below it who may look."""
    first = f"  {_named('page')} {address}\n" if address else ""
    return f"{first}  {_named('')} {access}"


def _named(row: str) -> str:
    return set_cell_size(named("result", row), _LABEL_CELLS)


def _segment_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (
            "segments" if index == 0 else "",
            f"{one['number']}  {one['label']:<26} {one['volume_ml']:9,.2f} mL"
            f"  {said(_counted(one['voxels']))}",
        )
        for index, one in enumerate(result["segments"])
    ]
    if not result["tumor_detected"]:
        return [*rows, ("tumour", said("none found"))]
    # People count slices from 1, as the page does.
    first, last = result["start_slice_index"] + 1, result["end_slice_index"] + 1
    total, volume = result["total_slices"], f"{result['tumor_volume_ml']:,.2f} mL"
    return [*rows, ("tumour", said(f"{volume} in all, slices {first} to {last} of {total}"))]


def _counted(voxels: int) -> str:
    return "(1 voxel)" if voxels == 1 else f"({voxels:,} voxels)"


def _timings(result: Mapping[str, Any], files: Sequence[Path], request_seconds: float) -> str:
    parts = [f"{name} {seconds:.1f} s" for name, seconds in _stage_seconds(files).items()]
    elapsed = result["elapsed_time_seconds"]
    if elapsed is not None:
        parts.append(said(f"worker {elapsed:.1f} s"))
    return ", ".join([*parts, said(f"request to mask {request_seconds:.1f} s")])


def _stage_seconds(files: Sequence[Path]) -> dict[str, float]:
    """Read the stages' seconds from the report, where it names them."""
    report = next((path for path in files if path.name == "report.json"), None)
    if report is None:
        return {}
    result = json.loads(report.read_text(encoding="utf-8")).get("result") or {}
    return {
        str(name).removesuffix("_s").replace("_", " "): float(seconds)
        for name, seconds in (result.get("timings") or {}).items()
        if isinstance(seconds, int | float) and seconds >= _LEAST_SHOWN_S
    }
