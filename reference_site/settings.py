"""Settings of the reference site.

Every one comes from the environment and has an embedded default that works on a fresh machine:
SQLite and files under `SEGMENTATION_DATA_DIR`, loopback only, DEBUG off. Secrets are never in the
code: the site makes its own once and keeps them, readable by its owner only, in the data folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

from django_queue_app import secret_file
from reference_site import object_storage

BASE_DIR = Path(__file__).resolve().parent.parent

_WORDS = {"true": True, "1": True, "yes": True, "on": True}
_WORDS |= {"false": False, "0": False, "no": False, "off": False, "": False}


def _flag(name: str, default: bool) -> bool:
    value = os.environ.get(name, str(default)).strip().lower()
    if value not in _WORDS:
        raise ImproperlyConfigured(f"{name}: expected true or false, got {value!r}")
    return _WORDS[value]


def _number(name: str, default: float, *, minimum: float = 0) -> float:
    value = os.environ.get(name, "").strip() or str(default)
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not minimum <= number < float("inf"):
        raise ImproperlyConfigured(f"{name}: expected a number >= {minimum:g}, got {value!r}")
    return number


def _words(name: str, default: str = "") -> list[str]:
    return [word.strip() for word in os.environ.get(name, default).split(",") if word.strip()]


# --- the segmentation app -------------------------------------------------------------------------
SEGMENTATION_DATA_DIR = Path(
    os.environ.get("SEGMENTATION_DATA_DIR", "").strip() or BASE_DIR / "var" / "site"
).resolve()
USE_LOCAL_INFERENCE = _flag("USE_LOCAL_INFERENCE", False)
DEFAULT_MODEL = os.environ.get("DEFAULT_MODEL", "").strip()
SEGMENTATION_WAIT_SECONDS = _number("SEGMENTATION_WAIT_SECONDS", 300)
SEGMENTATION_LEASE_SECONDS = _number("SEGMENTATION_LEASE_SECONDS", 90, minimum=0.1)
SEGMENTATION_DEADLINE_SECONDS = _number("SEGMENTATION_DEADLINE_SECONDS", 1800, minimum=0.1)
SEGMENTATION_MAX_ATTEMPTS = int(_number("SEGMENTATION_MAX_ATTEMPTS", 3, minimum=1))
SEGMENTATION_BACKOFF_SECONDS = _number("SEGMENTATION_BACKOFF_SECONDS", 5)
SEGMENTATION_DEIDENTIFY = _flag("SEGMENTATION_DEIDENTIFY", True)
SEGMENTATION_PSEUDONYM_KEY = os.environ.get("SEGMENTATION_PSEUDONYM_KEY", "")
SEGMENTATION_MIN_WORKER_VERSION = os.environ.get("SEGMENTATION_MIN_WORKER_VERSION", "").strip()
MAX_UPLOAD_BYTES = int(_number("MAX_UPLOAD_BYTES", 1 << 30, minimum=1))

# --- who may ask ----------------------------------------------------------------------------------
DEBUG = _flag("DEBUG", False)
SECRET_KEY = os.environ.get("SECRET_KEY", "") or secret_file.read_or_create(
    SEGMENTATION_DATA_DIR / "secret.key"
)
ALLOWED_HOSTS = _words("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = _words("CSRF_TRUSTED_ORIGINS")

# Cookies over HTTPS only, as soon as the site says that it is reached by HTTPS.
_IS_HTTPS = any(origin.startswith("https://") for origin in CSRF_TRUSTED_ORIGINS)
SESSION_COOKIE_SECURE = _flag("SESSION_COOKIE_SECURE", _IS_HTTPS)
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = int(_number("SECURE_HSTS_SECONDS", 0))
# A proxy that ends TLS must overwrite this header; only then may it be believed.
if _flag("BEHIND_TLS_PROXY", False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# --- Django ---------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_queue_app",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "reference_site.static_files.StaticFiles",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "reference_site.urls"
ASGI_APPLICATION = "reference_site.asgi.application"
WSGI_APPLICATION = "reference_site.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]


# --- database -------------------------------------------------------------------------------------
def _database() -> dict[str, Any]:
    """Return the database's settings, with what the queue needs of each kind of database."""
    SEGMENTATION_DATA_DIR.mkdir(parents=True, exist_ok=True)
    url = os.environ.get("DATABASE_URL", "").strip()
    # The default is no URL: a folder's name may hold what means something else in one.
    database: dict[str, Any] = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": SEGMENTATION_DATA_DIR / "db.sqlite3",
    }
    if url:
        database = dict(dj_database_url.parse(url))
    database["ATOMIC_REQUESTS"] = False
    if database["ENGINE"].endswith("sqlite3"):
        database["OPTIONS"] = database.get("OPTIONS", {}) | {
            # A transaction that reads first and writes later can't be queued by SQLite: it fails
            # with "database is locked". IMMEDIATE ones wait for their turn.
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            # FULL: what was answered with 2xx survives a power cut, too.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
        }
    else:
        # 0: under ASGI each request has a thread of its own, so a connection that is kept for the
        # thread's next request is only kept from everybody else. Raise it under WSGI.
        database["CONN_MAX_AGE"] = int(_number("CONN_MAX_AGE", 0))
        database["CONN_HEALTH_CHECKS"] = True
    return database


DATABASES = {"default": _database()}

# --- files ----------------------------------------------------------------------------------------
STATIC_URL = "/static/"
STATIC_ROOT = SEGMENTATION_DATA_DIR / "static"
STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # WhiteNoise warns about a missing folder
# Serve from the apps' own folders, so that `collectstatic` is not needed on a fresh machine.
WHITENOISE_USE_FINDERS = True
WHITENOISE_ALLOW_ALL_ORIGINS = False
STORAGES: dict[str, dict[str, Any]] = {
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
# Empty: artifacts and the embedded DICOM store lie in the data folder. `s3://bucket/prefix` puts
# them where several machines reach them; AWS's own variables hold its address and keys.
SEGMENTATION_STORAGE = os.environ.get("SEGMENTATION_STORAGE", "").strip()
if SEGMENTATION_STORAGE:
    STORAGES["segmentation"] = object_storage.from_url(SEGMENTATION_STORAGE)
DATA_UPLOAD_MAX_MEMORY_SIZE = 10 << 20

# --- language and time ----------------------------------------------------------------------------
USE_TZ = True
TIME_ZONE = os.environ.get("TIME_ZONE", "").strip() or "UTC"
USE_I18N = True
LANGUAGE_CODE = os.environ.get("LANGUAGE_CODE", "").strip() or "en"
LANGUAGES = [("en", "English"), ("ko", "한국어")]

# --- log ------------------------------------------------------------------------------------------
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "django_queue_app": {"level": os.environ.get("LOG_LEVEL", "INFO").upper()},
        "django.request": {"level": "ERROR"},
    },
    "root": {"handlers": ["console"], "level": "WARNING"},
}
