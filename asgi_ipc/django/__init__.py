"""What asgi_ipc offers Django projects. `asgi_ipc` itself never imports this package.

Begin with `apps`, the application for ``INSTALLED_APPS``: it registers `checks` of the settings and
sends the signal of `signals`; `management` has the command. `consumers` works without the
application, too.
"""
