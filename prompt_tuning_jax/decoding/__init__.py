"""From a frozen model and a prompt to tokens: greedy, beams, sampling, ranking."""
