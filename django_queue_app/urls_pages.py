"""The pages that a person opens."""

from __future__ import annotations

from django.urls import path

from django_queue_app import views

urlpatterns = [
    path("", views.study, name="segmentation-study"),
    path("login/", views.SignIn.as_view(), name="segmentation-login"),
    path("logout/", views.SignOut.as_view(), name="segmentation-logout"),
    path("viewer/series/<str:series_id>/", views.viewer_grid, name="segmentation-viewer-grid"),
    path(
        "viewer/series/<str:series_id>/slices/<int:index>.png",
        views.viewer_slice,
        name="segmentation-viewer-slice",
    ),
]
