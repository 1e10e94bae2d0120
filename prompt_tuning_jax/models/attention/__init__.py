"""Attention with a bias by relative position: one function, `attend`, and its forms."""
