"""The packed soft-prompt engine. Knows no FastAPI, no pydantic, no Redis."""
