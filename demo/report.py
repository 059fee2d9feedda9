"""What the demonstration shows on the console."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

STAGES = ("downloading", "loading", "inferring", "writing", "uploading")
# Steps below this say nothing about where the time goes.
_LEAST_SHOWN_S = 0.05
NOTICE = "demonstration, not for clinical use"


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
                TextColumn("          {task.description:<12}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
            )
            self._progress = Progress(*columns, console=Console(file=stream), transient=False)
            self._task = self._progress.add_task("pending", total=1.0)

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
            self._progress.update(self._task, description=name, completed=done)
        elif name != self._last:
            self._tell(name)
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
        ("model", f"{model['name']} {model['version']} ({NOTICE})"),
        ("", f"sha256 {model['sha256']}"),
        ("processed by", str(result["processed_by"])),
        ("timings", _timings(result, files, request_seconds)),
        *(("warning", text) for text in result["warnings"]),
        *(("files" if index == 0 else "", str(path)) for index, path in enumerate(files)),
    ]
    return "Result\n" + "\n".join(f"  {name:<14} {text}".rstrip() for name, text in rows)


def _segment_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (
            "segments" if index == 0 else "",
            f"{one['number']}  {one['label']:<26} {one['volume_ml']:9,.2f} mL"
            f"  ({one['voxels']} voxels)",
        )
        for index, one in enumerate(result["segments"])
    ]
    if not result["tumor_detected"]:
        return [*rows, ("tumour", "none found")]
    span = f"slices {result['start_slice_index']} to {result['end_slice_index']}"
    total = f"of {result['total_slices']}"
    return [*rows, ("tumour", f"{result['tumor_volume_ml']:,.2f} mL in all, {span} {total}")]


def _timings(result: Mapping[str, Any], files: Sequence[Path], request_seconds: float) -> str:
    parts = [f"{name} {seconds:.1f} s" for name, seconds in _stage_seconds(files).items()]
    elapsed = result["elapsed_time_seconds"]
    if elapsed is not None:
        parts.append(f"worker {elapsed:.1f} s")
    return ", ".join([*parts, f"request to mask {request_seconds:.1f} s"])


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
