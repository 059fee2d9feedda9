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
from django_queue_app.loopback import is_loopback
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
SEGMENTATION_VISIBLE_REQUESTS = os.environ.get("SEGMENTATION_VISIBLE_REQUESTS", "").strip()
# Calls per minute that are let through; 0: any number. Workers and pages need far fewer.
SEGMENTATION_LIMIT_USER_CALLS = int(_number("SEGMENTATION_LIMIT_USER_CALLS", 30_000))
SEGMENTATION_LIMIT_WORKER_CALLS = int(_number("SEGMENTATION_LIMIT_WORKER_CALLS", 60_000))
SEGMENTATION_LIMIT_ANONYMOUS_CALLS = int(_number("SEGMENTATION_LIMIT_ANONYMOUS_CALLS", 6_000))
SEGMENTATION_LIMIT_WRONG_TOKENS = int(_number("SEGMENTATION_LIMIT_WRONG_TOKENS", 60))
# Wrong passwords per ten minutes: for one name from one address, and for all names from it.
SEGMENTATION_LIMIT_LOGIN_FAILURES = int(_number("SEGMENTATION_LIMIT_LOGIN_FAILURES", 10))
SEGMENTATION_LIMIT_LOGIN_FAILURES_OF_ADDRESS = int(
    _number("SEGMENTATION_LIMIT_LOGIN_FAILURES_OF_ADDRESS", 100)
)
SEGMENTATION_METRICS_TOKEN = os.environ.get("SEGMENTATION_METRICS_TOKEN", "").strip()
SEGMENTATION_MIN_WORKER_VERSION = os.environ.get("SEGMENTATION_MIN_WORKER_VERSION", "").strip()
SEGMENTATION_PSEUDONYM_KEY_PREVIOUS = os.environ.get("SEGMENTATION_PSEUDONYM_KEY_PREVIOUS", "")
SEGMENTATION_ALLOW_BURNED_IN = _flag("SEGMENTATION_ALLOW_BURNED_IN", False)
SEGMENTATION_DIRECT_FETCH = _flag("SEGMENTATION_DIRECT_FETCH", False)
SEGMENTATION_KEEP_REQUESTS_DAYS = _number("SEGMENTATION_KEEP_REQUESTS_DAYS", 0)
SEGMENTATION_KEEP_UNUSED_DAYS = _number("SEGMENTATION_KEEP_UNUSED_DAYS", 90, minimum=1)
MAX_UPLOAD_BYTES = int(_number("MAX_UPLOAD_BYTES", 1 << 30, minimum=1))

# --- the archive of images ------------------------------------------------------------------------
SEGMENTATION_PACS = os.environ.get("SEGMENTATION_PACS", "").strip() or "embedded"
SEGMENTATION_PACS_URL = os.environ.get("SEGMENTATION_PACS_URL", "").strip()
SEGMENTATION_PACS_USER = os.environ.get("SEGMENTATION_PACS_USER", "")
SEGMENTATION_PACS_PASSWORD = os.environ.get("SEGMENTATION_PACS_PASSWORD", "")
SEGMENTATION_PACS_TOKEN = os.environ.get("SEGMENTATION_PACS_TOKEN", "").strip()
SEGMENTATION_PACS_CA = os.environ.get("SEGMENTATION_PACS_CA", "").strip()
SEGMENTATION_PACS_TIMEOUT_SECONDS = _number("SEGMENTATION_PACS_TIMEOUT_SECONDS", 30, minimum=0.1)
SEGMENTATION_PACS_DEADLINE_SECONDS = _number("SEGMENTATION_PACS_DEADLINE_SECONDS", 300, minimum=0.1)
SEGMENTATION_PACS_LIST_DAYS = int(_number("SEGMENTATION_PACS_LIST_DAYS", 0))
SEGMENTATION_INPUT_CACHE_BYTES = int(_number("SEGMENTATION_INPUT_CACHE_BYTES", 4 << 30))
SEGMENTATION_INPUT_CACHE_HOURS = _number("SEGMENTATION_INPUT_CACHE_HOURS", 24)

# --- who may ask ----------------------------------------------------------------------------------
DEBUG = _flag("DEBUG", False)
SECRET_KEY = os.environ.get("SECRET_KEY", "") or secret_file.read_or_create(
    SEGMENTATION_DATA_DIR / "secret.key"
)
ALLOWED_HOSTS = _words("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = _words("CSRF_TRUSTED_ORIGINS")

if DEBUG and not all(is_loopback(host) for host in ALLOWED_HOSTS):
    raise ImproperlyConfigured(
        "DEBUG: expected false where ALLOWED_HOSTS names more than this machine: Django's error "
        "pages would show settings and patients to whoever causes an error."
    )

# Cookies over HTTPS only, as soon as the site says that it is reached by HTTPS.
_IS_HTTPS = any(origin.startswith("https://") for origin in CSRF_TRUSTED_ORIGINS)
SESSION_COOKIE_SECURE = _flag("SESSION_COOKIE_SECURE", _IS_HTTPS)
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = int(_number("SECURE_HSTS_SECONDS", 30 * 86_400 if _IS_HTTPS else 0))
SECURE_HSTS_INCLUDE_SUBDOMAINS = _flag("SECURE_HSTS_INCLUDE_SUBDOMAINS", False)
# A promise about a whole domain, for years, and about its subdomains: the hospital's, not ours.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
# A proxy that ends TLS must overwrite this header; only then may it be believed.
if _flag("BEHIND_TLS_PROXY", False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    # The proxy redirects (deploy/nginx.conf). The site itself must not: workers of the cloud lane
    # and Prometheus call it on this machine, past the proxy.
    SILENCED_SYSTEM_CHECKS += ["security.W008"]

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
    "django_queue_app.middleware.security_headers",
    "django.middleware.security.SecurityMiddleware",
    "reference_site.static_files.StaticFiles",
    "django_queue_app.middleware.Observed",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_queue_app.middleware.Limited",
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
        # Threads that answer calls stay (`django_queue_app.asgi_handler`), and so may theirs.
        database["CONN_MAX_AGE"] = 600
        return database
    database["CONN_HEALTH_CHECKS"] = True
    connections = int(_number("DATABASE_CONNECTIONS", 8))
    if connections:
        # Shared by the process's threads: making a connection costs the server more than a poll.
        database["OPTIONS"] = database.get("OPTIONS", {}) | {
            "pool": {
                "min_size": 1,
                "max_size": connections,
                "timeout": 10,  # then the caller is told 503, and when to come back
                # A server that comes back after an hour is found by the next call, not by a
                # pause that has doubled to minutes.
                "reconnect_timeout": 5,
            }
        }
    else:
        database["CONN_MAX_AGE"] = int(_number("CONN_MAX_AGE", 0))
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

# --- calls ----------------------------------------------------------------------------------------
# What the limits count in. In the process, unless a project has a shared cache.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "OPTIONS": {"MAX_ENTRIES": 50_000},
    }
}

# --- log ------------------------------------------------------------------------------------------
SEGMENTATION_LOG_FORMAT = os.environ.get("SEGMENTATION_LOG_FORMAT", "").strip().lower() or "text"
if SEGMENTATION_LOG_FORMAT not in {"text", "json"}:
    raise ImproperlyConfigured(
        f"SEGMENTATION_LOG_FORMAT: expected text or json, got {SEGMENTATION_LOG_FORMAT!r}"
    )
_LOG_LEVEL = os.environ.get("LOG_LEVEL", "INFO").strip().upper()
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"context": {"()": "django_queue_app.log_context.ContextFilter"}},
    "formatters": {
        "text": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "fmt": "%(levelname)s %(name)s %(message)s",
            "rename_fields": {"levelname": "level", "name": "logger"},
            "timestamp": "time",
        },
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": SEGMENTATION_LOG_FORMAT,
            "filters": ["context"],
        }
    },
    "loggers": {
        "django_queue_app": {"level": _LOG_LEVEL},
        "django_queue_app.calls": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
    },
    "root": {"handlers": ["console"], "level": "WARNING"},
}
if SEGMENTATION_LOG_FORMAT == "json":
    LOGGING["loggers"] |= {
        # The server's own lines, too, or a reader of JSON stumbles over them; but not its access
        # log, which knows nothing of requests and workers.
        "uvicorn": {"handlers": ["console"], "propagate": False},
        "uvicorn.error": {"propagate": True},
        "uvicorn.access": {"handlers": [], "propagate": False},
        "django_queue_app.calls": {"level": _LOG_LEVEL},
    }
