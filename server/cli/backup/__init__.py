"""A whole store as one file, and back: a tar of canonical artifacts and of a ledger that names them."""
