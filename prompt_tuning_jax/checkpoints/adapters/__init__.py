"""Adapters on disk: PEFT's directories, ours where PEFT has no such kind, and what they say."""
