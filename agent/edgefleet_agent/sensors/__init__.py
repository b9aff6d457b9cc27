"""Sensors of this machine: power rails, temperatures, clocks and signs of throttling. Standard library only.

`probe.probe(sysfs_root)` finds them, `boards` says which rails add up to a total, `reader` reads them fast, `sampler`
reads them over time. What is done with the readings stands in `qualify/energy*.py` and `qualify/thermal*.py`.
"""
