"""HTTP only: routes, schemas, errors, limits."""
