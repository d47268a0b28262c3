"""What commands show in a terminal: tables, and the live view of `proteus serve`."""
