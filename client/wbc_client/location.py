"""Where the clinic file of this process is: a hospital's node names it; a simulation hands out one per virtual node."""

import os
from collections.abc import Mapping
from pathlib import Path

from wbc_common.errors import SettingError

NODE_KEY = "clinic-config"
FOLDER_VARIABLE = "WBC_CLINIC_CONFIGS"


def clinic_file(node_config: Mapping[str, object]) -> Path:
    """The clinic file of a node.

    Args:
        node_config: Flower's configuration of the node. `clinic-config` is the path at a hospital. A simulated node has
            a `partition-id` instead and takes that file, in name order, of the folder in WBC_CLINIC_CONFIGS.

    Raises:
        SettingError: neither leads to a file.
    """
    if NODE_KEY in node_config:
        return Path(str(node_config[NODE_KEY]))
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None or "partition-id" not in node_config:
        raise SettingError(
            "this node does not know its clinic file",
            remedy=f"give its node {NODE_KEY} = path",
        )
    files, number = clinic_files(Path(folder)), str(node_config["partition-id"])
    if not number.isdecimal() or int(number) >= len(files):
        raise SettingError(
            f"node {number} has no clinic file among the {len(files)} of {folder}",
            remedy="run as many nodes as there are clinic files",
        )
    return files[int(number)]


def clinic_files(folder: Path) -> list[Path]:
    """The clinic files of a simulation's folder, in name order."""
    return sorted(folder.glob("*.toml"))
