"""A small Django project that runs django_queue_app: every setting by environment."""
