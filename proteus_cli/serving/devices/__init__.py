"""Executors: load engines on a device and run batches there, in a thread, a process, or on a GPU."""
