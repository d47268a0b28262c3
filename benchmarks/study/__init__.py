"""What `proteus study` promises, measured: a module a part."""
