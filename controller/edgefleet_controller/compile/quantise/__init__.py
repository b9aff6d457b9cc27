"""Ranges, scales, rounding and mixed precision: recipes that no target owns."""
