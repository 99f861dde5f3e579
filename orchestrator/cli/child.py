"""
Run a command as a child that does not outlive its parent: `python child.py PARENT_PID COMMAND...`.

A parent that is killed with SIGKILL cannot end its children; on Linux the kernel does it. Run by path and
without imports of ours, so that it costs a few milliseconds before the command replaces it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, command: list[str]) -> None:
    """Replace this process by the command; does not return."""
    if sys.platform == "linux":
        # SIGKILL, not SIGTERM: without its parent the server is gone as well, and nothing could be finished.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  no shell is wanted


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
