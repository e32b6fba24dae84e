"""A library about soft prompts: formats, artifacts, stores. Knows no HTTP and no backbone forward."""
