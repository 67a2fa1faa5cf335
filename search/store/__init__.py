"""A version of the index on disk: tiles, tables, and what they are made from."""
