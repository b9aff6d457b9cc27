"""The command line: one module a command group, rendering apart from doing."""
