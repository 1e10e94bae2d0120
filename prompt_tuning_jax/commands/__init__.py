"""One file for each command of `prompt-tuning`, and what starts and ends them."""
