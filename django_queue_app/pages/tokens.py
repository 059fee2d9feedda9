"""Tokens of workers and programs: made here, shown once, revoked here."""

from __future__ import annotations

from functools import wraps
from typing import Any

from django.contrib import messages
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from django_queue_app import tokens
from django_queue_app.errors import ServiceError
from django_queue_app.models import ApiToken
from django_queue_app.pages.guard import View, sentence_of, signed_in
from django_queue_app.states import Lane


def _operators_only(view: View) -> View:
    """Guard a page for who may manage tokens; others are told so in words."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.has_perm("django_queue_app.change_apitoken"):
            return render(request, "django_queue_app/refused.html", status=403)
        return view(request, *args, **kwargs)

    return signed_in(guarded)


@_operators_only
@require_http_methods(["GET", "POST"])
def list_tokens(request: HttpRequest) -> HttpResponse:
    """Show the tokens; a POST makes one and shows its secret, this one time."""
    made = _make(request) if request.method == "POST" else None
    rows = ApiToken.objects.select_related("user").order_by(
        F("revoked_at").desc(nulls_first=True), "name"
    )
    context = {
        "rows": rows,
        "made": made,
        "lanes": Lane.choices,
        "users": _users(request),
        "name": "" if made else request.POST.get("name", ""),
        "owner": "" if made else request.POST.get("owner", ""),
    }
    return render(request, "django_queue_app/tokens.html", context)


def _users(request: HttpRequest) -> QuerySet[Any]:
    """Give whom the token may stand for: nobody gets the rights of a superuser by one."""
    model = get_user_model()
    users = model.objects.filter(is_active=True).order_by(model.USERNAME_FIELD)
    return users if request.user.is_superuser else users.filter(is_superuser=False)


def _user_of(request: HttpRequest, key: str) -> Any:
    try:
        return _users(request).filter(pk=key).first()
    except (ValueError, ValidationError):  # it can't be anybody's key
        return None


def _make(request: HttpRequest) -> dict[str, str] | None:
    owner = request.POST.get("owner", "")
    kind = "worker" if owner in Lane.values else "user"
    user = _user_of(request, owner) if kind == "user" else None
    try:
        token, secret = tokens.create(
            name=request.POST.get("name", "").strip(),
            kind=kind,
            lane=owner if kind == "worker" else "",
            user=user,
        )
    except ServiceError as error:
        messages.error(request, sentence_of(error))
        return None
    return {"name": token.name, "secret": secret, "kind": kind}


@_operators_only
@require_POST
def revoke(request: HttpRequest, token_id: int) -> HttpResponse:
    """Make a token useless at once."""
    token = get_object_or_404(ApiToken, pk=token_id)
    tokens.revoke(token)
    messages.success(request, _("The token “%(name)s” is revoked.") % {"name": token.name})
    return redirect("segmentation-tokens")
