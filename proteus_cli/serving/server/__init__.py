"""The server process: opens all planes in order, serves until it is stopped, drains, and closes in reverse order."""
