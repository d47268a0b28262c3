"""What commands do with the hosts of a cluster: find them, check them, have their agents measure."""
