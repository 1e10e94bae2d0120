"""The errors that say what a user did: a command shows their message, and no traceback."""

MISTAKES = (ValueError, OSError, ImportError, FloatingPointError)
