"""What every store does alike to names, versions, aliases and bytes. Knows no kind of store."""
