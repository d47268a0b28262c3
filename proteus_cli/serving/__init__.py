"""The live server: thin drivers of `control` on the real clock."""
