"""Names and texts as they stand in SQL."""


def identifier(name: str) -> str:
    """Return a name in the quotes of an identifier."""
    return '"' + name.replace('"', '""') + '"'


def quoted(text: object) -> str:
    """Return a text, for example a path, as it stands between the quotes of a SQL text."""
    return str(text).replace("'", "''")
