"""Targets `tensorrt` and `tensorrt-rtx`: portable sources of plans, plans, and what the vendor's parser says."""
