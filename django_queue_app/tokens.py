"""Tokens: made, checked, revoked. Only a digest is stored, the secret is shown once.

One round of SHA-256 is enough here: the secret is 256 random bits, so unlike a password it can't
be guessed from its digest, and a slow digest would only burn CPU on each of a worker's many calls.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import secrets
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.core.cache import cache
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from django_queue_app import statements
from django_queue_app.errors import InvalidRequest, NameTaken
from django_queue_app.impatient import write_unless_busy
from django_queue_app.models import ApiToken
from django_queue_app.states import Lane

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

logger = logging.getLogger(__name__)

PREFIX = "mri_"
# Writing the time of use at every call would double the writes of a poll.
_USE_IS_NOTED_EVERY = timedelta(seconds=60)


def digest_of(secret: str) -> str:
    """Return what is stored of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def create(
    *,
    name: str,
    kind: str,
    lane: str = "",
    user: AbstractBaseUser | None = None,
    now: datetime | None = None,
) -> tuple[ApiToken, str]:
    """Make a token.

    Parameters
    ----------
    name : str
        Unique among live tokens; the user part of `name:token` for Basic authentication.
    kind : str
        "worker" (then `lane` is needed) or "user" (then `user` is).
    lane : str
        "lab" or "cloud".
    user : User, optional
        Whom a user's token stands for.
    now : datetime, optional
        The server's time.

    Returns
    -------
    tuple of ApiToken and str
        The token and its secret, which can't be shown again.

    Raises
    ------
    InvalidRequest
        The parts don't fit together.
    NameTaken
        A live token has this name.
    """
    _check(name, kind, lane, user)
    secret = PREFIX + secrets.token_urlsafe(32)
    token = ApiToken(
        name=name,
        kind=kind,
        lane=lane,
        digest=digest_of(secret),
        created_at=now or timezone.now(),
    )
    token.user_id = user.pk if user is not None else None
    try:
        with transaction.atomic():
            token.save(force_insert=True)
    except IntegrityError:
        raise NameTaken(
            f"A live token is already named {name!r}; revoke it first.",
            f"{name!r}라는 이름의 유효한 토큰이 이미 있습니다. 먼저 폐기하십시오.",
        ) from None
    logger.info("token_created", extra={"token": name, "kind": kind, "lane": lane})
    return token, secret


def _check(name: str, kind: str, lane: str, user: AbstractBaseUser | None) -> None:
    if not name or len(name) > 150 or ":" in name or not name.isprintable():
        raise InvalidRequest(
            "A token's name is 1 to 150 printable characters without a colon.",
            "토큰 이름은 콜론을 뺀 출력 가능한 문자 1~150자여야 합니다.",
        )
    if kind == ApiToken.Kind.WORKER and (lane not in Lane.values or user is not None):
        raise InvalidRequest(
            "A worker's token needs a lane, lab or cloud, and no user.",
            "워커 토큰에는 사용자 없이 레인(lab 또는 cloud)을 지정해야 합니다.",
        )
    if kind == ApiToken.Kind.USER and (user is None or lane):
        raise InvalidRequest(
            "A user's token needs a user and no lane.",
            "사용자 토큰에는 레인 없이 사용자를 지정해야 합니다.",
        )
    if kind not in ApiToken.Kind.values:
        raise InvalidRequest(
            "A token is for a worker or for a user.", "토큰은 워커용이거나 사용자용이어야 합니다."
        )


def authenticate(
    secret: str, *, name: str | None = None, now: datetime | None = None
) -> ApiToken | None:
    """Return the live token with this secret (and this name, if one is given)."""
    now = now or timezone.now()
    token = statements.live_token(digest_of(secret))
    if token is None or (name is not None and name != token.name):
        return None
    if token.user is not None and not token.user.is_active:
        return None
    note_use(token, now)
    return token


def authenticate_header(header: str, *, now: datetime | None = None) -> ApiToken | None:
    """Return the live token of an `Authorization` header: `Bearer token` or Basic `name:token`."""
    scheme, _, value = header.strip().partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return authenticate(value, now=now)
    if scheme.lower() == "basic":
        try:
            name, colon, secret = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return authenticate(secret, name=name, now=now) if colon else None
    return None


def revoke(token: ApiToken, *, now: datetime | None = None) -> bool:
    """Make a token useless from now on; tell whether it was live."""
    now = now or timezone.now()
    token.revoked_at = token.revoked_at or now
    logger.info("token_revoked", extra={"token": token.name, "kind": token.kind})
    return ApiToken.objects.live().filter(pk=token.pk).update(revoked_at=now) == 1


def note_use(token: ApiToken, now: datetime) -> None:
    """Keep when a token was used: once a minute, and not while the database is busy.

    Calls that come at the same moment have all read the same old time, so that the cache lets one
    of them write, and the condition does among processes that share no cache.
    """
    before = now - _USE_IS_NOTED_EVERY
    if token.last_used_at is not None and token.last_used_at > before:
        return
    key = f"segmentation-token-use:{token.digest}:{now.timestamp() // 60:.0f}"
    if not cache.add(key, 1, timeout=60):
        return
    unnoted = Q(last_used_at__isnull=True) | Q(last_used_at__lte=before)
    ours = ApiToken.objects.filter(unnoted, pk=token.pk)
    if write_unless_busy(lambda: ours.update(last_used_at=now)):
        token.last_used_at = now
    else:
        cache.delete(key)
