"""Commands that try several ways and say which was best."""
