"""Measurements, each printed with n, spread and conditions. `python -m bench [NAME …]` runs them."""
