"""The server process: opens every plane in order, serves until told to stop, drains, closes in reverse order."""
