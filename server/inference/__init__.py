"""One request's walk: lease, fill the template, submit, read out."""
