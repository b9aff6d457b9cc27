"""Runtimes behind one port: a backend is one short module, found lazily by name."""
