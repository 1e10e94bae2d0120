"""Texts found by their vectors: stored documents, exact search, and how good what it finds is."""
