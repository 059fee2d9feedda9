"""The way in and out."""

from __future__ import annotations

from django.contrib.auth.views import LoginView, LogoutView
from django.utils.decorators import method_decorator

from django_queue_app.pages.guard import page


@method_decorator(page, name="dispatch")
class SignIn(LoginView):
    """Sign in with a Django user."""

    template_name = "django_queue_app/login.html"
    next_page = "segmentation-study"
    redirect_authenticated_user = True


@method_decorator(page, name="dispatch")
class SignOut(LogoutView):
    """Sign out and show the way in."""

    next_page = "segmentation-login"
