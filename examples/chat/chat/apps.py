"""Ends this process when its supervisor is gone, however that died."""

import os
import signal
import sys
import threading

from django.apps import AppConfig


class ChatConfig(AppConfig):
    name = "chat"

    def ready(self) -> None:
        # run.py holds the other end of our standard input and never writes to it.
        if "CHAT_SUPERVISED" in os.environ:
            threading.Thread(target=end_with_supervisor, daemon=True).start()


def end_with_supervisor() -> None:
    os.read(sys.stdin.fileno(), 1)  # Returns at end of file only.
    os.kill(os.getpid(), signal.SIGTERM)
