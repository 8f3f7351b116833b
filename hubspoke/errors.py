"""The one error that a person is meant to read, and what of another library's error goes into it."""


class HubspokeError(Exception):
    """Something a user can put right: the message says what is wrong, where, and what to do."""


def first_line(error: object) -> str:
    """Return the first line of what an error says, or what kind of error it is if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
