"""Where requests wait: queues in order of deadlines, and the plan's shares of them by host class."""
