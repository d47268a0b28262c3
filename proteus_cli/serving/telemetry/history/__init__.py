"""The last 15 minutes: counters at one moment, samples of their growth, and what page and terminal show of them."""
