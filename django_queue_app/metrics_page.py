"""GET /metrics: for Prometheus on the same machine, or with a token of its own; never open."""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST

from django_queue_app import metrics
from django_queue_app.api.errors import CredentialsRefused, error_response
from django_queue_app.errors import ServiceError
from django_queue_app.loopback import is_loopback

# What a proxy adds: a call that has one of them comes from elsewhere, whatever its address says.
_PROXY_HEADERS = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")


class MetricsClosed(ServiceError):
    """The metrics were asked for from another machine, and there is no token for that."""

    code = "metrics_closed"
    http_status = 403
    default_message = (
        "The metrics are read from this machine only; set SEGMENTATION_METRICS_TOKEN on the site "
        "to read them from elsewhere."
    )
    default_message_ko = (
        "메트릭은 이 서버에서만 읽을 수 있습니다. 다른 곳에서 읽으려면 사이트에 "
        "SEGMENTATION_METRICS_TOKEN을 설정하십시오."
    )


@require_safe
def read_metrics(request: HttpRequest) -> HttpResponse:
    """Give the metrics in Prometheus' text format."""
    token = str(getattr(settings, "SEGMENTATION_METRICS_TOKEN", ""))
    if token and not _has_token(request, token):
        return error_response(request, CredentialsRefused())
    if not token and not _is_from_this_machine(request):
        return error_response(request, MetricsClosed())
    response = HttpResponse(metrics.render(), content_type=CONTENT_TYPE_LATEST)
    response["Cache-Control"] = "no-store"
    return response


def _has_token(request: HttpRequest, token: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    is_same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
    return scheme.lower() == "bearer" and is_same


def _is_from_this_machine(request: HttpRequest) -> bool:
    if any(name in request.headers for name in _PROXY_HEADERS):
        return False
    try:
        address = ipaddress.ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return False
    # The name, too: behind a proxy that adds nothing, calls carry the site's public one.
    return address.is_loopback and is_loopback(urlsplit(f"//{request.get_host()}").hostname or "")


urlpatterns: list[URLPattern] = [path("metrics", read_metrics, name="segmentation-metrics")]
