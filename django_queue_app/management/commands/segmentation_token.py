"""`manage.py segmentation_token create|list|revoke`: credentials of workers and programs."""

from __future__ import annotations

import argparse
import json
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import CommandError, CommandParser

from django_queue_app import tokens
from django_queue_app.errors import ServiceError
from django_queue_app.management.database_command import DatabaseCommand
from django_queue_app.models import ApiToken
from django_queue_app.states import Lane


class Command(DatabaseCommand):
    """Make, list and revoke tokens."""

    help = "Make, list or revoke the tokens that workers and programs prove themselves with."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the three verbs."""
        verbs = parser.add_subparsers(dest="verb", required=True)
        create = verbs.add_parser("create", help="make a token; its secret is shown once")
        create.add_argument("name", help="unique among live tokens; a worker's user name in Basic")
        create.add_argument("--kind", choices=ApiToken.Kind.values, default=ApiToken.Kind.WORKER)
        create.add_argument("--lane", choices=Lane.values, default="", help="for a worker")
        create.add_argument("--user", default="", help="user name, for a user's token")
        create.add_argument(
            "--replace", action="store_true", help="revoke a live token of this name first"
        )
        _add_json(create)
        _add_json(verbs.add_parser("list", help="show all tokens, never their secrets"))
        revoke = verbs.add_parser("revoke", help="make a token useless from now on")
        revoke.add_argument("name")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        """Run one verb."""
        {"create": self._create, "list": self._list, "revoke": self._revoke}[options["verb"]](
            **options
        )

    def _create(
        self, *, name: str, kind: str, lane: str, user: str, replace: bool, **options: Any
    ) -> None:
        live = ApiToken.objects.live().filter(name=name).first()
        try:
            if replace and live is not None:
                tokens.revoke(live)
            token, secret = tokens.create(
                name=name, kind=kind, lane=lane, user=_user(user) if user else None
            )
        except ServiceError as error:
            raise CommandError(error.message) from error
        if options["json"]:
            answer = {"name": token.name, "kind": kind, "lane": lane, "secret": secret}
            self.stdout.write(json.dumps(answer))
            return
        self.stderr.write(f"The secret of {name} is shown once, now; keep it where others can't:")
        self.stdout.write(secret)

    def _list(self, **options: Any) -> None:
        rows = [_described(token) for token in ApiToken.objects.order_by("created_at", "id")]
        if options["json"]:
            self.stdout.write(json.dumps(rows))
            return
        if not rows:
            self.stdout.write("There are no tokens yet.")
        for row in rows:
            whose = row["lane"] or row["user"]
            self.stdout.write(
                f"{row['name']}  {row['kind']} ({whose})  made {row['created_at']}"
                f"  used {row['last_used_at'] or 'never'}"
                + (f"  revoked {row['revoked_at']}" if row["revoked_at"] else "")
            )

    def _revoke(self, *, name: str, **options: Any) -> None:  # noqa: ARG002
        token = ApiToken.objects.live().filter(name=name).first()
        if token is None or not tokens.revoke(token):
            raise CommandError(f"There is no live token named {name!r}; `list` shows them.")
        self.stdout.write(f"{name} is revoked.")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def _user(name: str) -> Any:
    model = get_user_model()
    try:
        return model._default_manager.get_by_natural_key(name)
    except model.DoesNotExist:
        raise CommandError(
            f"There is no user named {name!r}; make one with `manage.py createsuperuser`."
        ) from None


def _described(token: ApiToken) -> dict[str, str]:
    def shown(moment: Any) -> str:
        return moment.isoformat(timespec="seconds") if moment else ""

    return {
        "name": token.name,
        "kind": token.kind,
        "lane": token.lane,
        "user": token.user.get_username() if token.user else "",
        "created_at": shown(token.created_at),
        "last_used_at": shown(token.last_used_at),
        "revoked_at": shown(token.revoked_at),
    }
