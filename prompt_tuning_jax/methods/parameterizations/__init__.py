"""How a prompt [P, D] is written while it trains; what is saved is the prompt alone."""
