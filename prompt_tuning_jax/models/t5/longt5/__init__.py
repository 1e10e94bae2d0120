"""LongT5's encoder: attention to near positions, and to a summary of each stretch of the input."""
