"""django-oauth-toolkit as a program of its own, ``python oauth_toolkit.py``.

Django is configured here, its database is one file in the directory that it is given, and the only view that is not
the toolkit's is the login page. The client is the one of the recipe in docs/integrating.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import django
from answering import listen, options, serve
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings
from django.urls import include, path

ask = options()
key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
LOGIN_PAGE = """<form method="post">{% csrf_token %}{{ form }}<button type="submit">Sign in</button></form>"""

settings.configure(
    SECRET_KEY="for tests only",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "loggers": {"django.request": {"handlers": ["console"], "level": "ERROR", "propagate": False}},
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "oauth2_provider",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "context_processors": ["django.template.context_processors.request"],
                "loaders": [
                    ("django.template.loaders.locmem.Loader", {"login.html": LOGIN_PAGE}),
                    "django.template.loaders.app_directories.Loader",
                ],
            },
        }
    ],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    LOGIN_URL="/login",
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(Path(ask["directory"]) / "toolkit.sqlite3"),
            "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
        }
    },
    OAUTH2_PROVIDER={
        "OIDC_ENABLED": True,
        "OIDC_RSA_PRIVATE_KEY": key.decode(),
        "PKCE_REQUIRED": True,
        "SCOPES": {"openid": "who you are", "profile": "your name"},
        "ACCESS_TOKEN_EXPIRE_SECONDS": ask["access_token_s"],
        "ROTATE_REFRESH_TOKEN": True,
        "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": ask["grace_s"],
        "REFRESH_TOKEN_REUSE_PROTECTION": True,
        "ALLOWED_REDIRECT_URI_SCHEMES": ["http", "https"],
    },
)
django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from django.contrib.auth.views import LoginView  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from oauth2_provider.models import Application, Grant, RefreshToken  # noqa: E402

urlpatterns = [
    path("login", LoginView.as_view(template_name="login.html")),
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
]


def tokens() -> list[dict[str, Any]]:
    """Return every refresh token that was ever issued."""
    return [
        {"value": row.token, "family": row.token_family, "user": row.user.username, "live": row.revoked is None}
        for row in RefreshToken.objects.select_related("user").order_by("id")
    ]


def revoke(value: str) -> dict[str, Any]:
    """End the family of this token, as an administrator does."""
    RefreshToken.revoke_family(RefreshToken.objects.get(token=value).token_family)
    Grant.objects.all().delete()
    return {}


call_command("migrate", verbosity=0)
for name in ask["users"]:
    get_user_model().objects.create_user(name, password=ask["password"])
Application.objects.create(
    client_id="phone",
    name="phone",
    client_type=Application.CLIENT_PUBLIC,
    authorization_grant_type=Application.GRANT_AUTHORIZATION_CODE,
    redirect_uris="http://127.0.0.1/callback",
    algorithm=Application.RS256_ALGORITHM,
)
server = listen()
issuer = f"http://127.0.0.1:{server.server_port}/o"
serve(server, get_wsgi_application(), "/o/token/", issuer, {"tokens": tokens, "revoke": revoke})
