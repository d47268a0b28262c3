"""`proteus study startup`: from nothing to the first answer.

Each start is a fresh process (`child.py`) that imports the backend of a device, loads a variant, and answers one row,
like a server's process of a device. It reports the time of each step by a clock that all processes share. Starts with a
cold and with a warm file cache take turns, so that both meet the same machine (`starts.py`). Before a cold start, the
files of the model and of the backend are evicted. Files that another process has mapped stay, such as Python's own. The
bytes that were read from disks tell how cold a start was.
"""
