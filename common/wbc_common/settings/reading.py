"""Settings from plain values: frozen tables that refuse what they do not know, and complaints that name each key.

Every settings file of this project (the plan, a clinic's file, an experiment) is read by these functions, so that a
misspelt key is met with the same words everywhere.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from wbc_common.errors import SettingError

Model = TypeVar("Model", bound=BaseModel)


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys and values that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file, with or without the byte order mark that Windows editors write.

    Raises:
        SettingError: it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror}", remedy="check the path and its rights") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not valid TOML: {error}", remedy="correct that line") from error


def table_of(plan: dict[str, Any], name: str) -> dict[str, Any]:
    """A table of a plan's values before they are checked; empty where there is none, or something else."""
    table = plan.get(name)
    return table if isinstance(table, dict) else {}


def with_defaults(plan: dict[str, Any], name: str, **defaults: Any) -> dict[str, Any]:
    """A plan's values with these in a table where it does not say; as they are where that is none, to be refused."""
    table = plan.get(name, {})
    return {**plan, name: {**defaults, **table}} if isinstance(table, dict) else plan


def validated(model: type[Model], values: dict[str, Any], origin: str) -> Model:
    """`model` from plain values, with pydantic's complaints turned into one SettingError that names each key."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_complaint(model, detail) for detail in error.errors()]
        raise SettingError(
            f"{origin}: " + "; ".join(lines), remedy="correct the settings named above and run again"
        ) from error


def _complaint(model: type[BaseModel], detail: Any) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = _known_keys(model, detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        return f"unknown setting '{key}'" + (
            f" (did you mean '{close[0]}'?)" if close else f"; known: {', '.join(known)}"
        )
    if detail["type"] == "missing":
        return f"setting '{key}' is missing"
    if isinstance(detail["input"], dict):  # a rule between settings: its text names them
        return f"{key}: {message}" if key else message
    return f"{key or 'settings'} = {detail['input']!r}: {message}"


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)
