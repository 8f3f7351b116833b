"""``hubspoke serve postgres``: the private server from nothing to a line that a person can paste."""

from collections.abc import Callable

from hubspoke.credentials import make_password, secret_place
from hubspoke.errors import HubspokeError
from hubspoke.manifest import Manifest
from hubspoke.orders import orders
from hubspoke.postgres import Publisher, connect
from hubspoke.postgres_server import DATABASE, HOST, LocalServer
from hubspoke.project import Project
from hubspoke.release import ReleaseStore
from hubspoke.roles import sync
from hubspoke.stopping import until_stopped


def serve(project: Project, port: int | None, *, background: bool, stop: bool, tell: Callable[[str], None]) -> None:
    """Run the private server: start it, make roles and passwords, publish the current release, wait for Ctrl-C.

    Args:
        project: The project.
        port: Port on the local host; default: the one that it had before, or a free one.
        background: Return once it serves.
        stop: Stop the one that runs, and do nothing else.
        tell: Takes one line for the person.

    Raises:
        HubspokeError: It cannot be started, or cannot serve the release.
    """
    server = LocalServer(project)
    if stop:
        tell("Stopped." if server.stop() else "It did not run.")
        return
    manifest = Manifest.read_current(project.root)
    ordered = orders(manifest)
    if not ordered:
        raise HubspokeError("no exposure orders PostgreSQL: write delivery: { how: [file, postgres] } into one's meta")
    with until_stopped() as finished:
        server.start(port)
        is_served = False
        try:
            for order in ordered.values():
                for tenant in order.roles:
                    make_password(project, f"{order.spoke}_{tenant}" if tenant else order.spoke)
            sync(project, manifest, server)
            connection = connect(project, server)
            assert connection is not None  # noqa: S101 -- it has just been started
            store = ReleaseStore(project.release)
            with connection:
                if store.current():
                    tell(f"PostgreSQL: {Publisher(connection, store, ordered).publish()}")
                else:
                    tell("There is no release yet: hubspoke build publishes the first one here, too.")
            for order in ordered.values():
                for tenant, role in order.roles.items():
                    place = secret_place(project, f"{order.spoke}_{tenant}" if tenant else order.spoke)
                    tell(f'psql "host={HOST} port={server.port} dbname={DATABASE} user={role}"    password: {place}')
            is_served = True
            if background:
                tell("It runs in the background. To stop it: hubspoke serve postgres --stop")
            else:
                tell("Ctrl-C stops it.")
                while not finished.wait(1):
                    if not server.is_running():
                        raise HubspokeError(f"PostgreSQL has ended; see {server.log}")
        finally:
            if not (background and is_served):
                server.stop()
