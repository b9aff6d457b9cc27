"""Latency: how queries arrive, how they are timed, and what the figures may promise."""
