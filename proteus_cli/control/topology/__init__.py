"""Devices and engines that come and go, the steps of a roll-out."""
