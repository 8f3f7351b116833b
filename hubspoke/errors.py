"""The one error that a person is meant to read."""


class HubspokeError(Exception):
    """Something a user can put right: the message says what is wrong, where, and what to do."""
