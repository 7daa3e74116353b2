"""Every metric: which statistic it is, its name, kind and unit.

The name is that of the statistic (`asgi_ipc.layers.aio.IPCChannelLayer.global_statistics`) after
``asgi_ipc_``, with the suffixes that Prometheus expects: ``_count`` is left out, counters end in
``_total``, an age ends in ``_seconds``, and the limit of a memory in ``_limit``, as ``_total``
would make it a counter.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """One metric."""

    #: Key of `asgi_ipc.layers.inspection.statistics`, or field of its ``ChannelInfo``.
    statistic: str
    kind: Literal["counter", "gauge"]
    help: str
    #: ``"bytes"``, ``"seconds"`` or ``""`` for a number.
    unit: str = ""
    #: Of one channel, and not of the store.
    is_of_channel: bool = False
    #: A further label, of which each value is a series.
    label: str = ""

    @property
    def name(self) -> str:
        """Its name, without ``asgi_ipc_`` in front and ``_total`` behind."""
        name = self.statistic.removesuffix("_count")
        if self.unit == "bytes" and name.endswith("_total"):
            name = name.removesuffix("_total") + "_limit"
        if self.unit == "seconds":
            name += "_seconds"
        return f"channel_{name}" if self.is_of_channel else name

    @property
    def full_name(self) -> str:
        """Its name in Prometheus."""
        return f"asgi_ipc_{self.name}" + ("_total" if self.kind == "counter" else "")


_DROPPED = "Messages dropped "

#: Of the whole store, with the labels ``prefix`` and ``engine``.
OF_STORE = (
    Metric("messages_count", "counter", "Messages stored."),
    Metric(
        "received_count",
        "counter",
        "Messages that processes have fetched; again, if they were put back.",
    ),
    Metric(
        "passed_directly_count",
        "counter",
        "Messages to channels of the same process, which bypassed the store.",
    ),
    Metric(
        "channel_full_count",
        "counter",
        "Messages refused as their channel or the memory was full.",
    ),
    Metric("store_full_count", "counter", "Those of them refused as the memory was full."),
    Metric("expired_count", "counter", f"{_DROPPED}after their expiry, before they were fetched."),
    Metric("orphaned_count", "counter", f"{_DROPPED}because their reader had died."),
    Metric(
        "buffer_expired_count",
        "counter",
        f"{_DROPPED}after their expiry, after they were fetched.",
    ),
    Metric(
        "buffer_overflow_count",
        "counter",
        f"{_DROPPED}at the limits of a process, after they were fetched.",
    ),
    Metric("recoveries", "counter", "Changes completed on behalf of killed processes."),
    Metric("messages_pending", "gauge", "Messages that no process has fetched yet."),
    Metric("messages_max_age", "gauge", "Age of the oldest of them.", "seconds"),
    Metric("messages_high_water", "gauge", "Most messages ever pending."),
    Metric("held_count", "gauge", "Messages that processes have fetched and hold unread."),
    Metric("held_bytes", "gauge", "Memory of the processes that they take.", "bytes"),
    Metric("channels_count", "gauge", "Channels in use; process-specific ones up to the '!'."),
    Metric("memberships_count", "gauge", "Memberships of all groups."),
    Metric("processes_count", "gauge", "Processes that have the store open."),
    Metric("channel_bytes_used", "gauge", "Memory for messages: in use.", "bytes"),
    Metric("channel_bytes_reserved", "gauge", "Memory for messages: from the system.", "bytes"),
    Metric("channel_bytes_total", "gauge", "Memory for messages: the limit.", "bytes"),
    Metric("group_bytes_used", "gauge", "Memory for memberships: in use.", "bytes"),
    Metric("group_bytes_reserved", "gauge", "Memory for memberships: from the system.", "bytes"),
    Metric("group_bytes_total", "gauge", "Memory for memberships: the limit.", "bytes"),
    Metric("bytes_used", "gauge", "Both memories together: in use.", "bytes"),
    Metric("bytes_total", "gauge", "Both memories together: the limit.", "bytes"),
)
#: Of the relay of a store that is joined to those of other machines (docs/relays.md).
OF_RELAY = (
    Metric("relay_state", "gauge", "1 for the state that the relay is in.", label="state"),
    Metric("relay_connected", "gauge", "1 if this machine is connected to the server."),
    Metric("relay_contact_age", "gauge", "Time since the server was there.", "seconds"),
    Metric("relay_lag", "gauge", "Time from publishing to hearing.", "seconds"),
    Metric("relay_frames_out", "counter", "Frames published."),
    Metric("relay_bytes_out", "counter", "Bytes published."),
    Metric("relay_frames_in", "counter", "Frames heard."),
    Metric("relay_bytes_in", "counter", "Bytes heard."),
    Metric("relay_disconnects", "counter", "Connections to the server that were lost."),
    Metric("relay_kills", "counter", "Processes that were killed while they relayed."),
    Metric("relay_gaps", "counter", "Frames of other machines that were missed."),
    Metric("relay_dropped", "counter", f"{_DROPPED}by the relay, by reason.", label="reason"),
    Metric("relay_waiting", "gauge", "Messages that wait for the server."),
    Metric("relay_waiting_bytes", "gauge", "Memory that they take.", "bytes"),
    Metric("relay_backlog_bytes", "gauge", "Memory that they may take.", "bytes"),
    Metric("relay_machines", "gauge", "Other machines, by state.", label="state"),
    Metric("relay_problems", "gauge", "What needs a person; the command 'relays' tells it."),
)
#: Of one ordinary channel, with the label ``channel``, too. How many are received is left out: that
#: number falls when a message is put back.
OF_CHANNEL = (
    Metric("pushed", "counter", "Messages stored.", is_of_channel=True),
    Metric("refused", "counter", "Messages refused as there was no room.", is_of_channel=True),
    Metric("expired", "counter", f"{_DROPPED}after their expiry.", is_of_channel=True),
    Metric("pending", "gauge", "Messages that no process has fetched yet.", is_of_channel=True),
    Metric("oldest_age", "gauge", "Age of the oldest of them.", "seconds", is_of_channel=True),
    Metric("bytes", "gauge", "Memory that they take.", "bytes", is_of_channel=True),
    Metric("waiting", "gauge", "1 if a receiver waits for a message.", is_of_channel=True),
)

__all__ = ["OF_CHANNEL", "OF_RELAY", "OF_STORE", "Metric"]
