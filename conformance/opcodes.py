"""Call a function before every opcode of the interpreter, on each Python."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

#: Gets the code object, and the offset of the next opcode in it.
Each = Callable[[CodeType, int], object]

#: What the opcodes begin with that may change what another process sees: calls of C functions, and
#: stores into memory and attributes. All others change variables of their own process.
_ACTING = ("CALL", "STORE_SUBSCR", "STORE_SLICE", "STORE_ATTR", "DELETE_", "BEFORE_WITH", "SETUP_",
           "WITH_", "LOAD_SPECIAL", "IMPORT_", "SEND")  # fmt: skip


def acts(code: CodeType, offset: int) -> bool:
    """Return whether an opcode may change what another process sees.

    A process that is killed between two such opcodes leaves the same, wherever it was.
    """
    return dis.opname[code.co_code[offset]].startswith(_ACTING)


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
