"""Something done before every opcode of the interpreter, on each Python."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

#: Is given the code, and where in it the opcode lies that comes next.
Each = Callable[[CodeType, int], object]

if sys.version_info >= (3, 12):
    # There sys.settrace tells of no opcodes, or not of all, until a frame has asked for them.

    #: A number of our own among the tools that watch the interpreter.
    _TOOL = 4

    def trace_opcodes(each: Each) -> None:
        """From now on call it before every opcode."""
        monitoring = sys.monitoring
        monitoring.use_tool_id(_TOOL, __name__)
        monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, each)
        monitoring.set_events(_TOOL, monitoring.events.INSTRUCTION)

    def trace_nothing() -> None:
        """Call nothing any more."""
        monitoring = sys.monitoring
        if monitoring.get_tool(_TOOL) is not None:
            monitoring.set_events(_TOOL, monitoring.events.NO_EVENTS)
            monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, None)
            monitoring.free_tool_id(_TOOL)

else:

    def trace_opcodes(each: Each) -> None:
        """From now on call it before every opcode of what is called."""

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
        """Call nothing any more."""
        sys.settrace(None)
