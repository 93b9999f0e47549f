"""What the commands of `wbc-simulate` share: options that mean the same everywhere, and `--set`."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from wbc_common.errors import SettingError

Study = Annotated[Path | None, typer.Option("--study", help="experiment file; default: the in-silico study")]
Data = Annotated[Path | None, typer.Option(help="folder with a manifest.csv of real cells")]
HeldOut = Annotated[
    list[str] | None,
    typer.Option(
        help="clinic to hold out in place of those the file holds out, which then train unless named here too; "
        "may be given several times"
    ),
]
Fold = Annotated[
    list[str] | None,
    typer.Option("--fold", help="only this held-out clinic; none where the file says hold_out = 'stated'"),
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="a setting, e.g. --set loss.tau=0.5, --set data.skew.label_alpha=0.1")
]
Json = Annotated[bool, typer.Option("--json", help="print the figures as JSON")]


def parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """ "loss.tau=0.5" → {"loss.tau": 0.5}; a value that is no TOML is taken as text."""
    parsed: dict[str, Any] = {}
    for change in changes or []:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise SettingError(f"--set {change} is no setting", remedy="write --set loss.tau=0.5")
        try:
            parsed[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            parsed[key] = text
    return parsed
