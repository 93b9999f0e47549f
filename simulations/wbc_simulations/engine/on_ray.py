"""Flower's simulation engine on Ray: clinics spread over the processes of this machine, or of a cluster.

On a cluster (`--ray-address`, or Ray's own RAY_ADDRESS) the ServerApp runs where the command was given and clinics run
on any node. Nothing is copied there: every node needs this package installed, and must see the run folder, the cells
(WBC_CACHE for in-silico ones) and what the clinic files name under the same paths, on a shared file system. Each clinic
has one thread, so that the model is that of the in-process engine with one thread a clinic.
"""

import os
import time
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from wbc_client.location import FOLDER_VARIABLE, clinic_files
from wbc_common.errors import ConnectionFailure, SettingError
from wbc_server.run_folder import RUN_VARIABLE, RunFolder

_REGISTRATION_SECONDS = 60.0  # a clinic that is not there by then is named by the ServerApp
_SILENT = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def run_under_ray(
    folder: RunFolder, clinic_folder: Path, server_app: ServerApp, client_app: ClientApp, address: str | None
) -> None:
    """Run a study's apps under Ray, and leave Ray at the end.

    Args:
        address: of a running cluster's head, "host:port" or "auto"; None takes RAY_ADDRESS, or starts Ray here.

    Raises:
        SettingError: Ray is not installed.
        ConnectionFailure: there is no cluster at that address.
    """
    try:
        import ray
    except ImportError as error:
        raise SettingError("engine 'ray' is not installed", remedy='pip install "wbc-fl[simulation]"') from error
    from flwr.simulation import run_simulation

    # Flower's engine gives an empty run config and fixes Ray's runtime environment, so paths travel in the environment
    # and Ray is started here: Flower takes a Ray that runs already.
    os.environ |= {RUN_VARIABLE: str(folder.path.resolve())}
    _start_ray(address, {FOLDER_VARIABLE: str(clinic_folder.resolve()), **_SILENT})
    num_clinics = len(clinic_files(clinic_folder))
    try:
        run_simulation(
            server_app=_once_all_are_there(server_app, num_clinics),
            client_app=client_app,
            num_supernodes=num_clinics,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
    finally:
        ray.shutdown()


def _once_all_are_there(server_app: ServerApp, num_clinics: int) -> ServerApp:
    """The same app, begun when Flower has registered every node: it starts both at once, and one may be ahead."""
    patient = ServerApp()

    @patient.main()
    def main(grid: Grid, context: Context) -> None:
        until = time.monotonic() + _REGISTRATION_SECONDS
        while len(list(grid.get_node_ids())) < num_clinics and time.monotonic() < until:
            time.sleep(0.05)
        server_app(grid, context)

    return patient


def _start_ray(address: str | None, variables: dict[str, str]) -> None:
    """Connect to a cluster or start Ray on this machine, on loopback; workers get these environment variables."""
    import ray

    if "PYTHONPATH" in os.environ:
        variables = {**variables, "PYTHONPATH": os.environ["PYTHONPATH"]}
    address = address or os.environ.get("RAY_ADDRESS")
    environment = {"env_vars": variables}
    try:
        if address:
            ray.init(address, log_to_driver=False, runtime_env=environment)
        else:
            # Without "local" Ray would join whichever cluster it last saw on this machine, dead or alive.
            ray.init(
                "local",
                include_dashboard=False,
                log_to_driver=False,
                runtime_env=environment,
                _node_ip_address="127.0.0.1",
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConnectionFailure(
            f"cannot use Ray at {address or 'this machine'}: {error}",
            remedy="start the cluster's head (ray start --head) and give its address: --ray-address HOST:PORT",
        ) from error
