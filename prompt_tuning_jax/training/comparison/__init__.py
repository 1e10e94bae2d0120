"""Methods on one task, side by side: scores over seeds, and what each costs."""
