"""Sensors of this machine, read from sysfs: what there is. Measuring with them is not part of this version."""
