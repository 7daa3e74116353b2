"""Call a function before every opcode of the interpreter, on each Python."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

#: Gets the code object, and the offset of the next opcode in it.
Each = Callable[[CodeType, int], object]

if sys.version_info >= (3, 12):
    # There sys.settrace reports no opcodes, or not all, until a frame has asked for them.

    #: This module's id among the tools of sys.monitoring.
    _TOOL = 4

    def trace_opcodes(each: Each) -> None:
        """Call ``each`` before every opcode from now on."""
        monitoring = sys.monitoring
        monitoring.use_tool_id(_TOOL, __name__)
        monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, each)
        monitoring.set_events(_TOOL, monitoring.events.INSTRUCTION)

    def trace_nothing() -> None:
        """Stop tracing."""
        monitoring = sys.monitoring
        if monitoring.get_tool(_TOOL) is not None:
            monitoring.set_events(_TOOL, monitoring.events.NO_EVENTS)
            monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, None)
            monitoring.free_tool_id(_TOOL)

else:

    def trace_opcodes(each: Each) -> None:
        """Call ``each`` before every opcode from now on."""

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            return count

        def count(frame: FrameType, event: str, arg: object) -> Any:
            if event == "opcode":
                each(frame.f_code, frame.f_lasti)
            return count

        sys.settrace(trace)

    def trace_nothing() -> None:
        """Stop tracing."""
        sys.settrace(None)
