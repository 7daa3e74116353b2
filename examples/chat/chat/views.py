"""The page; everything on it comes over WebSockets."""

import os

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def index(request: HttpRequest) -> HttpResponse:
    engine = settings.CHANNEL_LAYERS["default"]["CONFIG"]["engine"]
    context = {"engine": engine, "pid": os.getpid(), "demo": settings.DEMO}
    return render(request, "chat/index.html", {**context, "workers": settings.WORKERS})
