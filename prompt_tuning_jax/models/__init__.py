"""The frozen networks, a folder for each family."""
