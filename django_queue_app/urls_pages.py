"""The pages that a person opens."""

from __future__ import annotations

from django.urls import path, re_path
from django.views.i18n import set_language

from django_queue_app.pages import queue, sign_in, study, tokens, viewer

_SERIES = "viewer/series/<str:series_id>/"

urlpatterns = [
    path("", study.study, name="segmentation-study"),
    path("queue/", queue.queue, name="segmentation-queue"),
    re_path(
        r"^queue/(?P<request_id>[0-9a-f-]{36})/(?P<verb>cancel|retry|earlier|later)/$",
        queue.act,
        name="segmentation-queue-act",
    ),
    path("tokens/", tokens.list_tokens, name="segmentation-tokens"),
    path("tokens/<int:token_id>/revoke/", tokens.revoke, name="segmentation-token-revoke"),
    path("login/", sign_in.SignIn.as_view(), name="segmentation-login"),
    path("language/", set_language, name="set_language"),
    path("logout/", sign_in.SignOut.as_view(), name="segmentation-logout"),
    path(_SERIES, viewer.grid, name="segmentation-viewer-grid"),
    path(
        _SERIES + "slices/<int:index>.png", viewer.slice_picture, name="segmentation-viewer-slice"
    ),
    path(_SERIES + "volume.nii.gz", viewer.volume, name="segmentation-viewer-volume"),
]
