"""A program that says in what it runs: arguments, environment, files, signals; then it ends as its first one asks."""

import json
import os
import signal
import sys
from pathlib import Path

from forking.template import inherited

if __name__ == "__main__":
    way = sys.argv[1]
    files = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - as numbers
    said = {
        "arguments": sys.argv[1:],
        "name": (__name__, __file__, __spec__.name if __spec__ else ""),
        "environment": {name: value for name, value in os.environ.items() if name != "LC_CTYPE"},
        "directory": (str(Path.cwd()), sys.path[0]),
        "is_leader": os.getpgrp() == os.getpid(),
        "files": sorted(int(file.name) for file in files if file.exists()),
        "handlers": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "streams": [
            (stream.encoding, stream.errors, stream.isatty(), stream.line_buffering)
            for stream in (sys.stdin, sys.stdout, sys.stderr)
        ],
        "inherited": inherited(),
        "input": sys.stdin.read(),
    }
    print(json.dumps(said))  # noqa: T201
    print("what went wrong", file=sys.stderr)  # noqa: T201
    if way == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "raises":
        raise KeyError(way)
    sys.exit(int(way))
