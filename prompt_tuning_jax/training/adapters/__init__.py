"""Runs that train an adapter: where its leaves start, what is refused, what is written."""
