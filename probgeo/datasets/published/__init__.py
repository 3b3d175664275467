"""Data sets that others have published: bundled, downloaded once with checksums, or read from a local copy."""
