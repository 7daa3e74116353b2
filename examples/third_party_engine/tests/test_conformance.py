from asgi_ipc.conformance.suite import *  # noqa: F403
