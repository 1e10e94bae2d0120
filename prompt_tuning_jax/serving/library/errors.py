"""What can go wrong with the prompts of a server."""


class UnknownPrompt(LookupError):
    """There is no such prompt or ensemble; the message names what is near."""


class Unusable(ValueError):
    """A prompt of the folder turns out to be none, or another model's, when it is loaded."""


class Conflict(ValueError):
    """What is asked for cannot be done to what is there."""
