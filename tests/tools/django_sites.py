"""Runs the small Django project in `tests/tools/django_site`, whose layers a test gives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SITE = Path(__file__).resolve().parent / "django_site"
#: Nothing that a test waits for takes longer than this.
PATIENCE = 120.0


def environment(layers: Mapping[str, Any]) -> dict[str, str]:
    """The environment of the project's processes."""
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "DJANGO_SETTINGS_MODULE": "mysite.settings",
        "SITE_LAYERS": repr(dict(layers)),
    }


def manage(*arguments: str, layers: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run ``manage.py`` to its end."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=SITE,
        env=environment(layers),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
