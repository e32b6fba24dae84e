"""NeMo's prompt learning."""
