"""One settings file; every value comes from the environment (README.md has the table)."""

from importlib.util import find_spec
from pathlib import Path

from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from costwatch import env

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = env.flag("COSTWATCH_DEBUG")
SECRET_KEY = env.text("COSTWATCH_SECRET_KEY")
if not SECRET_KEY:
    raise ImproperlyConfigured(
        "COSTWATCH_SECRET_KEY is not set: expected a long random text, such as the output of\n"
        "  python3 -c 'import secrets; print(secrets.token_urlsafe(50))'\n"
        "`make up` makes one and keeps it."
    )

# The address under which people reach the pages: links in mail, cookies and CSRF follow from it.
COSTWATCH_URL = env.text("COSTWATCH_URL", "http://localhost:8000").rstrip("/")
_HTTPS = COSTWATCH_URL.startswith("https://")
ALLOWED_HOSTS = env.words("COSTWATCH_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = [COSTWATCH_URL]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django.contrib.postgres",
    "csp",
    "rest_framework",
    "drf_spectacular",
    "costwatch.accounts",
    "costwatch.attribution",
    "costwatch.pricing",
    "costwatch.budgets",
    "costwatch.recommendations",
    "costwatch.reports",
    "costwatch.web",
    "costwatch.api",
    "costwatch.embedded",
]

MIDDLEWARE = [
    "costwatch.web.doorstep.Doorstep",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "costwatch.urls"
WSGI_APPLICATION = "costwatch.wsgi.application"

# In a checkout templates/ is at the top; in the wheel it lies inside the package.
_TEMPLATES = [BASE_DIR / "templates", BASE_DIR / "costwatch" / "templates"]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [folder for folder in _TEMPLATES if folder.is_dir()],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": env.postgres("DATABASE_URL", "postgresql://costwatch@127.0.0.1:5432/costwatch")
    | {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "overview"
LOGOUT_REDIRECT_URL = "login"

USE_TZ = True
TIME_ZONE = "UTC"  # organizations have their own; it is applied where a person reads
LANGUAGE_CODE = "en-us"
USE_I18N = False

STATIC_URL = "static/"
STATIC_ROOT = env.text("COSTWATCH_STATIC_ROOT") or None  # for collectstatic, behind another server
_plotly = find_spec("plotly")
if _plotly is None or _plotly.origin is None:
    raise ImproperlyConfigured("the plotly package is missing; install costwatch-ai's dependencies")
STATICFILES_DIRS = [("plotly", Path(_plotly.origin).parent / "package_data")]
WHITENOISE_USE_FINDERS = True  # no collectstatic step on one machine; files come from the packages
WHITENOISE_AUTOREFRESH = DEBUG
WHITENOISE_MAX_AGE = 3600

# Everything from ourselves; no inline script or style, no eval, no frames.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],  # Plotly draws its export through data: images
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
    }
}
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SESSION_ENGINE = "costwatch.accounts.sessions"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = _HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if _HTTPS else 0
if env.flag("COSTWATCH_BEHIND_PROXY"):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

globals().update(env.email("EMAIL_URL"))
DEFAULT_FROM_EMAIL = env.text("COSTWATCH_FROM_EMAIL", "costwatch@localhost")

# The broker is the same Postgres unless CELERY_BROKER_URL says otherwise: one durable thing holds everything.
CELERY_BROKER_URL = env.text("CELERY_BROKER_URL")
# The Postgres that holds the queues; None where another broker does.
BROKER_DATABASE = (
    env.postgres("CELERY_BROKER_URL", "")
    if CELERY_BROKER_URL.startswith("pgmq://")
    else None
    if CELERY_BROKER_URL
    else DATABASES["default"]
)
if BROKER_DATABASE:
    CELERY_BROKER_URL = env.broker_in(BROKER_DATABASE)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = (
    True  # a task that dies with its worker runs again; every task is safe twice
)
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_TRANSPORT_OPTIONS = (
    # A task that takes longer than this runs once more beside itself: each is short, and safe twice.
    {
        "init_extension": False,
        "visibility_timeout": 300,
        # How long a worker sleeps that has as many tasks as threads. kombu's second made that three tasks a second.
        "polling_interval": 0.05,
        # pgmq would take DATABASE_URL's word before its own parameters.
        "conn_string": CELERY_BROKER_URL.replace("pgmq://", "postgresql://", 1),
    }
    if BROKER_DATABASE
    else {}
)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "costwatch.api.authentication.ApiTokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["costwatch.api.permissions.IsMember"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_THROTTLE_RATES": {"user": "600/min"},
    "DEFAULT_THROTTLE_CLASSES": ["rest_framework.throttling.UserRateThrottle"],
    "COERCE_DECIMAL_TO_STRING": True,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "costwatch",
    "DESCRIPTION": "What AI inference costs, who spends it and what to change.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "ENUM_NAME_OVERRIDES": {"MonthStateEnum": "costwatch.reports.models.State"},
}

# Where senders reach the OTLP door, for the lines that the pages show; empty: port 4318 of the page's own host.
COSTWATCH_OTLP_URL = env.text("COSTWATCH_OTLP_URL")
COSTWATCH_OTLP_GRPC_URL = env.text("COSTWATCH_OTLP_GRPC_URL")  # the same by gRPC; empty: port 4317
# How many teams, features and customers telemetry can name; what comes after them is counted as "other".
MAX_TAG_VALUES = env.whole_number("COSTWATCH_MAX_TAG_VALUES", 5000)
RETENTION_DAYS = env.whole_number("COSTWATCH_RETENTION_DAYS", 400)  # older spans are refused
# How long an exchange rate holds after its day where none follows: weekends and holidays have none.
EXCHANGE_RATE_MAX_AGE_DAYS = env.whole_number("COSTWATCH_EXCHANGE_RATE_MAX_AGE_DAYS", 10, most=366)
# Of how many days up to yesterday providers' bills are fetched again each day: they correct what they said.
BILL_DAYS = env.whole_number("COSTWATCH_BILL_DAYS", 14)
PROVIDER_URLS = {
    "openai": env.text("COSTWATCH_OPENAI_URL", "https://api.openai.com").rstrip("/"),
    "anthropic": env.text("COSTWATCH_ANTHROPIC_URL", "https://api.anthropic.com").rstrip("/"),
}

# Limits at the OTLP door.
OTLP_WAIT_SECONDS = 10  # for the bodies of the same organization that came before
OTLP_MAX_BODY_BYTES = env.whole_number("COSTWATCH_OTLP_MAX_BODY_BYTES", 16 * 1024 * 1024)
# Each receiver process works on so many bodies at once and lets so many wait; who comes then is told to come again.
OTLP_AT_WORK = env.whole_number("COSTWATCH_OTLP_AT_WORK", 8)
OTLP_WAITING = env.whole_number("COSTWATCH_OTLP_WAITING", 12)
# What one key may send to one receiver process, bodies decompressed; 0: as much as it likes.
OTLP_KEY_REQUESTS_PER_SECOND = env.whole_number("COSTWATCH_OTLP_KEY_REQUESTS_PER_SECOND", 500)
OTLP_KEY_BYTES_PER_SECOND = env.whole_number(
    "COSTWATCH_OTLP_KEY_BYTES_PER_SECOND", 128 * 1024 * 1024
)

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env.text("COSTWATCH_LOG_LEVEL", "INFO")},
}
