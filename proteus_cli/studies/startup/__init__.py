"""`proteus study startup`: from nothing to the first answer.

Each start is a fresh process (`child.py`) that imports the backend of a device, loads a variant, and answers one row,
as a server's own process of a device does; it says when it had done what, by the clock that it shares with the process
that started it. Starts with a cold file cache and with a warm one take turns, so that both meet the same machine:
before a cold one, the files of the model and of the backend are evicted (`starts.py`); a warm one follows at once.
Files that another process has mapped stay, as Python's own do; how much was read from disks shows how cold it was.
"""
