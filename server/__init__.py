"""The server: HTTP, tasks, text, engine."""
