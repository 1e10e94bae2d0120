"""What trains in a prompt's place, or beside it, and how the network's parameters come of it."""
