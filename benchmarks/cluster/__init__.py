"""Agents in processes of their own: what the channel to them costs."""
