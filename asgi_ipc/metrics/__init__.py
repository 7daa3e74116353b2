"""The statistics of a store as metrics, for systems that watch sites.

Begin with `catalogue`, which lists the metrics. `readings` takes their values, `exposition` writes
them as Prometheus reads them, for the command ``asgi-ipc metrics``. For use inside a process,
`prometheus` is a collector for the package prometheus_client, and `opentelemetry` has instruments;
only these two import what they are for.
"""
