"""The result of a case that found nothing, for tests of what becomes of results."""

from __future__ import annotations

from worker.core.job import CaseResult, ModelIdentity


def no_lesion(*, artifacts: tuple[str, ...] = (), total_slices: int = 1) -> CaseResult:
    """Make the result of an empty mask."""
    return CaseResult(
        tumor_detected=False,
        tumor_volume_voxels=0,
        tumor_volume_ml=0.0,
        segments=(),
        total_slices=total_slices,
        start_slice_index=None,
        end_slice_index=None,
        elapsed_time_seconds=1.0,
        model=ModelIdentity(name="fake", version="1", sha256="0" * 64),
        sop_instance_uid="2.25.1",
        artifacts=artifacts,
    )
