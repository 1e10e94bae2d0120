"""The settings of every command, each declared once: option, gin macro, keyword, checks, help."""
