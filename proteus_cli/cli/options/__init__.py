"""The options of the commands, their defaults from `proteus.toml`, and their names of old."""
