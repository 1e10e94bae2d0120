"""Commands of models that embed texts: vectors, and what is found by them."""
