"""Commands that have commands of their own, as `proteus catalog add`: a module or a folder each."""
