"""Commands that answer: lines of a file, or requests over HTTP."""
