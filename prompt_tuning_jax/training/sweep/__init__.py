"""A sweep over settings: a grid of them trained together, ranked, and the best prompt kept."""
