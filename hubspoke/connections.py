"""Addresses of databases that are read: from the environment, never from a file of the project.

    HUBSPOKE_CONNECTION_<NAME>    an address, for example postgresql://reader@db.example.com/shop, with or without a
                                  password
    <warehouse>/secrets/<name>    the password, if it is not there: one line, readable by its owner alone

An address may hold a secret, so it is never printed.
"""

import os

from psycopg.conninfo import conninfo_to_dict

from hubspoke.errors import HubspokeError
from hubspoke.project import Project


def postgres_parameters(project: Project, name: str) -> dict[str, str]:
    """Return what to connect to a PostgreSQL database with.

    Args:
        project: The project.
        name: The connection's name, as a source's ``meta.ingest.connection`` says it.

    Raises:
        HubspokeError: Its address is not set, or is none.
    """
    variable = f"HUBSPOKE_CONNECTION_{name.upper()}"
    address = os.environ.get(variable)
    if not address:
        raise HubspokeError(
            f"connection {name} has no address. Set {variable}, for example to "
            "postgresql://reader@db.example.com/shop; "
            f"its password may stand in {project.warehouse / 'secrets' / name} instead"
        )
    try:
        parameters = {key: str(value) for key, value in conninfo_to_dict(address).items()}
    except Exception:
        raise HubspokeError(
            f"{variable} is not an address of PostgreSQL. It looks like postgresql://reader@db.example.com/shop"
        ) from None
    file = project.warehouse / "secrets" / name
    if "password" not in parameters and file.is_file():
        parameters["password"] = file.read_text().strip()
    return parameters
