"""Tuning the query side of an embedding model, whose documents' vectors stay, or both sides."""
