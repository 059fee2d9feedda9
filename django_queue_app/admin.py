"""Read-only pages over the tables; what changes something calls the service layer.

Nothing can be added, edited or deleted here: a row changed past the services would have no event,
and a worker may be at work on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.formats import date_format
from django.utils.text import capfirst
from django.utils.timezone import localtime
from django.utils.translation import get_language, ngettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from django_queue_app import services, tokens
from django_queue_app.errors import ServiceError
from django_queue_app.models import (
    PRIORITY_MAX,
    PRIORITY_MIN,
    ApiToken,
    Artifact,
    Attempt,
    Event,
    SegmentationRequest,
    Worker,
)
from django_queue_app.names import NAMES, REASONS, Names
from django_queue_app.pages.failures import title_of
from django_queue_app.templatetags.segmentation_words import short_id

if TYPE_CHECKING:
    RequestAdminBase = admin.ModelAdmin[SegmentationRequest]
    TokenAdminBase = admin.ModelAdmin[ApiToken]
    WorkerAdminBase = admin.ModelAdmin[Worker]
    EventAdminBase = admin.ModelAdmin[Event]
    RowsBase = admin.TabularInline[Any, SegmentationRequest]
else:  # Django's classes take no type parameters at run time
    RequestAdminBase = TokenAdminBase = WorkerAdminBase = EventAdminBase = admin.ModelAdmin
    RowsBase = admin.TabularInline

_PRIORITY_STEP = 10


def _words_of(field: str) -> Callable[[Any, Any], str]:
    """Make a column that says in words why: a reason, or a failure's code."""

    @admin.display(description=pgettext_lazy("field", "reason"), ordering=field)
    def why(_page: Any, row: Any) -> str:
        return _in_words(getattr(row, field))

    return why


def _in_words(code: str) -> str:
    return str(REASONS.get(code) or title_of(code) or code)


def _moment(field: str, names: Names) -> Callable[[Any, Any], str]:
    """Make a column of times that is narrow enough for a list of many columns."""

    @admin.display(description=names.fields[field], ordering=field)
    def moment(_page: Any, row: Any) -> str:
        at = getattr(row, field)
        return date_format(localtime(at), "SHORT_DATETIME_FORMAT") if at else "-"

    return moment


def _short_id(field: str, name: Any) -> Callable[[Any, Any], str]:
    """Make a column with the beginning of a request's id, as the pages show it."""

    @admin.display(description=name, ordering=field)
    def short(_page: Any, row: Any) -> str:
        return short_id(getattr(row, field))

    return short


class ReasonFilter(admin.AllValuesFieldListFilter):
    """A filter by a code that names each in words."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Give the codes that there are, in words."""
        for choice in super().choices(changelist):
            yield {**choice, "display": _in_words(str(choice["display"]))}


class ReadOnlyMixin:
    """No add, no change, no delete.

    Headings name the table: Django's own ("select ... to view") read badly in Korean.
    """

    opts: Any

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """Show the list."""
        title = {"title": capfirst(self.opts.verbose_name_plural), **(extra_context or {})}
        return super().changelist_view(request, title)  # type: ignore[misc]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> Any:
        """Show one row."""
        title = {"title": capfirst(self.opts.verbose_name), **(extra_context or {})}
        return super().change_view(request, object_id, form_url, title)  # type: ignore[misc]

    def has_add_permission(self, *_args: Any, **_kwargs: Any) -> bool:
        """Refuse."""
        return False

    def has_change_permission(self, *_args: Any, **_kwargs: Any) -> bool:
        """Refuse: fields are shown, not edited."""
        return False

    def has_delete_permission(self, *_args: Any, **_kwargs: Any) -> bool:
        """Refuse."""
        return False


class _Rows(ReadOnlyMixin, RowsBase):
    extra = 0
    show_change_link = False


class AttemptRows(_Rows):
    """Runs of a request."""

    model = Attempt
    fk_name = "request"
    fields = ("number", "worker_name", "started_at", "ended_at", "outcome", "why")
    readonly_fields = ("why",)

    why = _words_of("failure_code")


class EventRows(_Rows):
    """History of a request."""

    model = Event
    fields = ("at", "actor", "from_status", "to_status", "why", "detail")
    readonly_fields = ("why",)

    why = _words_of("reason")


class ArtifactRows(_Rows):
    """Files of a request."""

    model = Artifact
    fields = ("attempt", "name", "size_bytes", "sha256", "created_at")


def _may_operate(request: HttpRequest) -> bool:
    # The permission to change a request is the permission to use the actions: there is no form.
    return bool(request.user.has_perm("django_queue_app.change_segmentationrequest"))


@admin.register(SegmentationRequest)
class RequestAdmin(ReadOnlyMixin, RequestAdminBase):
    """The queue."""

    list_display = (
        "short",
        "status",
        "stage",
        "lane",
        "model",
        "priority",
        "attempt_count",
        "processed_by",
        "requested_by",
        "created",
        "finished",
    )
    list_filter = ("status", "lane", "model", ("failure_code", ReasonFilter))
    search_fields = ("id", "main_series_id", "requested_by", "processed_by")
    date_hierarchy = "created_at"
    ordering = ("-created_at",)
    inlines = (AttemptRows, EventRows, ArtifactRows)
    actions = ("cancel", "retry", "go_earlier", "go_later")

    short = _short_id("id", NAMES["SegmentationRequest"].fields["id"])
    created = _moment("created_at", NAMES["SegmentationRequest"])
    finished = _moment("finished_at", NAMES["SegmentationRequest"])

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Say who may use the actions."""
        return _may_operate(request)

    @admin.action(description=_("Cancel"), permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[SegmentationRequest]) -> None:
        """Cancel the chosen requests."""
        actor = request.user.get_username()
        self._each(request, queryset, lambda row: services.cancel(request_id=row.pk, actor=actor))

    @admin.action(description=_("Try again (files a new request)"), permissions=["operate"])
    def retry(self, request: HttpRequest, queryset: QuerySet[SegmentationRequest]) -> None:
        """File the chosen requests anew."""
        actor = request.user.get_username()
        self._each(request, queryset, lambda row: services.retry(request_id=row.pk, actor=actor))

    @admin.action(description=_("Go earlier (priority +10)"), permissions=["operate"])
    def go_earlier(self, request: HttpRequest, queryset: QuerySet[SegmentationRequest]) -> None:
        """Raise the priority of the chosen requests."""
        self._shift(request, queryset, _PRIORITY_STEP)

    @admin.action(description=_("Go later (priority -10)"), permissions=["operate"])
    def go_later(self, request: HttpRequest, queryset: QuerySet[SegmentationRequest]) -> None:
        """Lower the priority of the chosen requests."""
        self._shift(request, queryset, -_PRIORITY_STEP)

    def _shift(
        self, request: HttpRequest, queryset: QuerySet[SegmentationRequest], step: int
    ) -> None:
        actor = request.user.get_username()

        def shift(row: SegmentationRequest) -> object:
            priority = max(PRIORITY_MIN, min(PRIORITY_MAX, row.priority + step))
            return services.set_priority(request_id=row.pk, priority=priority, actor=actor)

        self._each(request, queryset, shift)

    def _each(
        self,
        request: HttpRequest,
        queryset: QuerySet[SegmentationRequest],
        change: Callable[[SegmentationRequest], object],
    ) -> None:
        done, refused = 0, dict[UUID, ServiceError]()
        for row in queryset:
            try:
                change(row)
            except ServiceError as error:
                refused[row.pk] = error
            else:
                done += 1
        for key, refusal in refused.items():
            sentence = refusal.message_in(get_language() or "en")
            self.message_user(request, f"{key}: {sentence}", messages.WARNING)
        if done:
            text = ngettext("%(n)d request changed.", "%(n)d requests changed.", done)
            self.message_user(request, text % {"n": done}, messages.SUCCESS)


@admin.register(ApiToken)
class TokenAdmin(ReadOnlyMixin, TokenAdminBase):
    """Tokens; `manage.py segmentation_token create` makes them, for the secret is shown once."""

    list_display = ("name", "kind", "lane", "user", "created", "used", "revoked")
    list_filter = ("kind", "lane")
    search_fields = ("name",)
    exclude = ("digest",)
    actions = ("revoke",)

    created = _moment("created_at", NAMES["ApiToken"])
    used = _moment("last_used_at", NAMES["ApiToken"])
    revoked = _moment("revoked_at", NAMES["ApiToken"])

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Say who may use the actions."""
        return bool(request.user.has_perm("django_queue_app.change_apitoken"))

    @admin.action(description=_("Revoke"), permissions=["operate"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        """Make the chosen tokens useless."""
        count = sum(tokens.revoke(token) for token in queryset)
        text = ngettext("%(n)d token revoked.", "%(n)d tokens revoked.", count)
        self.message_user(request, text % {"n": count}, messages.SUCCESS)


@admin.register(Worker)
class WorkerAdmin(ReadOnlyMixin, WorkerAdminBase):
    """Workers as they last described themselves."""

    list_display = ("name", "lane", "version", "device", "is_legacy", "seen")
    list_filter = ("lane", "is_legacy")

    seen = _moment("last_seen_at", NAMES["Worker"])


@admin.register(Event)
class EventAdmin(ReadOnlyMixin, EventAdminBase):
    """History of all requests."""

    list_display = ("when", "short", "actor", "from_status", "to_status", "why")
    list_filter = ("to_status", "from_status", ("reason", ReasonFilter), "request__lane", "at")
    search_fields = ("request__id", "actor", "detail")
    date_hierarchy = "at"

    when = _moment("at", NAMES["Event"])
    short = _short_id("request_id", NAMES["Event"].fields["request"])
    why = _words_of("reason")
