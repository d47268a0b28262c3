"""Families and limits of the servers that are attacked."""

MIB = 2**20
SMALL, LARGE, PHOTOS, ROW = "tiny", "image", "photos", "row"
SMALL_SHAPE, LARGE_ROWS, LARGE_SHAPE = (64,), 3, (3, 224, 224)
VALUES = LARGE_ROWS * 3 * 224 * 224
"""Values of the largest request that is sent."""
ACCURACIES = tuple(0.5 + number / 50 for number in range(24))
"""Of the variants of the family `ROW`."""
MAX_BODY_BYTES = 16 * MIB
MESSAGE_BYTES = 2**30  # the largest between a server and an agent
MODELS_BYTES = 2 * MIB  # the room of an agent for models
