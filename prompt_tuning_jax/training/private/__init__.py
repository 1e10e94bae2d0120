"""Private training: per-example clipping, noise, Poisson sampling, and what epsilon they give."""
