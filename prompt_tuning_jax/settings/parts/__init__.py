"""The parts of a training run's settings, each of one capability."""
