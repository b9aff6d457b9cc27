"""The embedded stack: broker, controller and one agent as child processes, and the HTTP between them and the CLI."""
