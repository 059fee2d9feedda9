"""Addresses of the reference site."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from django.utils.translation import gettext_lazy as _

admin.site.site_title = admin.site.site_header = _("MRI segmentation")
admin.site.index_title = _("Administration")

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("django_queue_app.metrics_page")),
    path("api/", include("django_queue_app.api.urls")),
    path("", include("django_queue_app.urls_pages")),
]
