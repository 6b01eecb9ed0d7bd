"""The one error of the town."""


class TownError(ValueError):
    """An input the town cannot work with; the message names the value."""
