"""A request whose inputs are no longer what its worker was given ends, plainly and at once."""

from __future__ import annotations

import logging

from django_queue_app import services
from django_queue_app.errors import ServiceError
from django_queue_app.models import ApiToken, SegmentationRequest

logger = logging.getLogger(__name__)


def fail_for_good(request: SegmentationRequest, token: ApiToken, error: ServiceError) -> None:
    """Let the worker's request fail, if it is the worker's still."""
    if request.lease_id is None:
        return
    try:
        services.fail(
            request_id=request.pk,
            lease_id=request.lease_id,
            token=token,
            code=error.code,
            message=error.message,
            message_ko=error.message_ko,
            is_retryable=False,
        )
    except ServiceError as refusal:  # ended or taken over in between: nothing to end any more
        logger.info("request_not_failed", extra={"code": refusal.code})
