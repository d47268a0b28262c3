"""How a cell is measured: latency alone and with others, power, and whether the figures can be trusted."""
