"""The type of content that is handed on without a copy: values of a tensor, a message, the body of a request."""

Buffer = bytes | bytearray | memoryview
"""Bytes. The values of a tensor are row-major, little-endian, without gaps."""
