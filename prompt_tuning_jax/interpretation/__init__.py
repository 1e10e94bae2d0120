"""What a tuned prompt means (paper section 7): `interpret` is the command on top."""
