"""What the loop is made of: set-up, one step, what several runs differ in, what is written."""
