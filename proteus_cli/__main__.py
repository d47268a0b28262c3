"""``python -m proteus_cli`` is the `proteus` command."""

from proteus_cli.cli.main import run

if __name__ == "__main__":
    run()
