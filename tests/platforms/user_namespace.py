"""``python user_namespace.py COMMAND...``: run it as root of a user namespace with all users in it.

In there handlers for foreign programs can be registered that the rest of the system never sees.
The `unshare` program alone would map a single user, or need another program to map more.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_CLONE_NEWUSER = 0x10000000


def main(command: list[str]) -> int:
    """Run the command and return its exit status."""
    waits, go_on = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        # It ends with this process, as the command does with it.
        library = ctypes.CDLL(None, use_errno=True)
        library.prctl(1, signal.SIGKILL)
        if library.unshare(_CLONE_NEWUSER):
            os.write(2, f"no user namespace: {os.strerror(ctypes.get_errno())}\n".encode())
            os._exit(77)
        os.write(tell, b"x")
        os.read(waits, 1)
        os.execvp(command[0], command)
    os.close(tell)
    if os.read(told, 1):
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{kind}").write_text("0 0 65536")
        os.write(go_on, b"x")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
