"""Rigs: whole stacks under test, with faults on demand."""
