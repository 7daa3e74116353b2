"""Settings whose layers the environment gives, as a Python literal."""

import ast
import os
from pathlib import Path
from typing import Any

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["channels", "asgi_ipc.django"]
ASGI_APPLICATION = "mysite.asgi.application"
DATABASES: dict[str, Any] = {}
USE_TZ = True
CHANNEL_LAYERS: dict[str, Any] = ast.literal_eval(os.environ["SITE_LAYERS"])
# The log of asgi_ipc on standard error, as docs/operations.md says.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"asgi_ipc": {"handlers": ["console"], "level": "INFO"}},
}
