"""What every page has in common: no cache keeps it, nothing from elsewhere runs in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import get_language
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
        # Who has signed in comes back by GET, which an address for a POST may refuse.
        back = request.get_full_path() if request.method in {"GET", "HEAD"} else ""
        return redirect_to_login(back, login_url="segmentation-login")

    return page(guarded)


def sentence_of(error: ServiceError) -> str:
    """Give an error's sentence in the language of the page."""
    return error.message_in(get_language() or "")
