"""``python … MEMORY NICENESS COMMAND …``: run a command within limits, and only while whoever starts it lives.

This process becomes the command, so that the command needs no shell and no process between it and us.
"""

import ctypes
import os
import resource
import signal
import sys

NOT_FOUND = 127  # as shells end where there is no such command
_PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    """Become the command of the arguments, with less memory and priority. It ends with the process that started it."""
    memory_bytes, niceness, *command = sys.argv[1:]
    os.nice(int(niceness))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(memory_bytes) if hard == resource.RLIM_INFINITY else min(int(memory_bytes), hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is meant
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(NOT_FOUND)


if __name__ == "__main__":
    main()
