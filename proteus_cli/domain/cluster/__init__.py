"""The machines of a cluster: their list, their names in words, the network to them, and when one counts as lost."""
