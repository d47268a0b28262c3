"""Workers, one per device: they run what the controller decides, through changes of plan and losses of devices."""
