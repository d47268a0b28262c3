"""The hosts of a cluster as its server has them: a `link` to each that the `host_list` names, connected or not."""
