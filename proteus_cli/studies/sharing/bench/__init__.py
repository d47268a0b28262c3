"""The bench of a study of sharing: devices that run slices, in processes of their own or emulated."""
