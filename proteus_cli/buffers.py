"""The type of content that is handed on without a copy."""

Buffer = bytes | bytearray | memoryview
"""The values of a tensor are row-major, little-endian, without gaps."""
