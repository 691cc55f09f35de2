"""The error that a model is not for us."""


class UnsupportedModel(ValueError):
    """The checkpoint asks for something that this runtime does not compute; the message names it."""
