"""Devices and engines that come and go, and the steps of a plan change."""
