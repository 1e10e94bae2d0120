"""What the training loop is made of: one step, several runs, what is reported and watched."""
