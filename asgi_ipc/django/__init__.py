"""What asgi_ipc offers Django projects. `asgi_ipc` itself never imports this package."""
