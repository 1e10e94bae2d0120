"""What a training run needs, found out by compiling it for devices that are not there."""
