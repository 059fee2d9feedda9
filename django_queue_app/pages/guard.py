"""What every page has in common: no cache keeps it, nothing from elsewhere runs in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponseBase
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache

from django_queue_app.errors import ServiceError

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

View = Callable[..., HttpResponseBase]


def page(view: View) -> View:
    """Keep a page out of caches and let it load nothing from elsewhere."""

    @never_cache
    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response["Cache-Control"] = "no-store"
        return response

    return guarded


def signed_in(view: View) -> View:
    """Guard a page that shows patients: only who is signed in sees it."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.user.is_authenticated:
            return view(request, *args, **kwargs)
        if request.method in {"GET", "HEAD"}:
            return redirect_to_login(request.get_full_path(), login_url="segmentation-login")
        messages.warning(
            request,
            _("You were signed out, so nothing was changed. Sign in and do it once more."),
        )
        return redirect_to_login(_came_from(request), login_url="segmentation-login")

    return page(guarded)


def _came_from(request: HttpRequest) -> str:
    """Give the page that a form was on: the address of a form may refuse who comes by GET."""
    page_of_form = request.headers.get("Referer", "")
    is_ours = url_has_allowed_host_and_scheme(
        page_of_form, {request.get_host()}, require_https=request.is_secure()
    )
    parts = urlsplit(page_of_form)
    return urlunsplit(("", "", parts.path, parts.query, "")) if is_ours else ""


def sentence_of(error: ServiceError) -> str:
    """Give an error's sentence in the language of the page."""
    return error.message_in(get_language() or "")
