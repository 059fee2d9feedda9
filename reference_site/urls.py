"""Addresses of the reference site."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("django_queue_app.metrics_page")),
    path("api/", include("django_queue_app.api.urls")),
    path("", include("django_queue_app.urls_pages")),
]
