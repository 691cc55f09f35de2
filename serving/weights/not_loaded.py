"""The error that there is no model to load."""


class ModelNotLoaded(ValueError):
    """There is no model there, or none that this runtime can serve; the message says what would do."""
