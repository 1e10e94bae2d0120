"""Tuning the query side of an embedding model, while the documents' vectors stay as they are."""
