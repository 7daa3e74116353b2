"""What processes and their relay leave for each other in the store: its names."""

from __future__ import annotations

import re

from asgi_ipc.relay import way_out


def test_the_module_tells_of_each_queue_and_table_once() -> None:
    constants = {
        value.decode()
        for value in vars(way_out).values()
        if isinstance(value, bytes) and value.startswith(b"!!")
    }
    told = re.findall(r"^``(!!.*?)N?``", way_out.__doc__ or "", re.M)
    assert sorted(told) == sorted(constants)
