"""Transfer: what prompts of other tasks, or of another model, are worth for a new one."""
