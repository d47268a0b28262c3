"""The `proteus` command, also as ``python -m proteus_cli``."""

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line. Ctrl-C also ends it quietly while modules are still imported."""
    try:
        from proteus_cli.cli.main import run  # noqa: PLC0415 - which takes most of the start
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201 - nothing else is imported yet
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
