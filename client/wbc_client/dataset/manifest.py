"""Reads a CSV manifest: one row per cell image.

`path` and a label are needed: the registry's own column (class5, class11, class13) goes first where it is filled,
`label` (the clinic's word) otherwise. Spreadsheets differ between hospitals: a byte order mark, `;` or tabs between
columns and backslashes in paths are taken as they come. Everything else that is unclear is refused with its line.
"""

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wbc_client.dataset.listing import SPLIT_WORDS, LabelledFile, Listing, resolve_labels
from wbc_common.cells import Registry
from wbc_common.errors import DataError

FILE_NAME = "manifest.csv"
GROUP_COLUMNS = ("group", "patient", "slide")
REGISTRY_COLUMNS = {"wbc5": "class5", "wbc11": "class11", "wbc13": "class13"}


@dataclass(frozen=True)
class _Row:
    line: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        return self.cells.get(column, "")


def read_manifest(
    path: Path,
    registry: Registry,
    *,
    own_words: Mapping[str, str],
    own_id: str,
    clinic: str | None = None,
    plan_clinics: Sequence[str] = (),
) -> Listing:
    """The cells of one clinic in the manifest.

    Args:
        path: the CSV file, or a folder that holds manifest.csv.
        registry: the study's classes.
        own_words: the clinic's own labels and the known label each stands for.
        own_id: our name; our rows are taken where the manifest has a clinic column that names us.
        clinic: take this clinic's rows instead.
        plan_clinics: who takes part; where the manifest names another of them and not us, we do not take its cells.

    Raises:
        DataError: saying which line or column is wrong.
    """
    path = path / FILE_NAME if path.is_dir() else path
    columns, rows = _read_rows(path)
    _check_columns(path, columns, registry)
    if clinic is None:
        _refuse_cells_of_others(path, rows, own_id, plan_clinics)
    rows = _rows_of_clinic(path, rows, own_id=own_id, clinic=clinic)
    group_column = next((name for name in GROUP_COLUMNS if name in columns), "")
    files = [_labelled_file(path, row, REGISTRY_COLUMNS[registry.name], group_column) for row in rows]
    _check_paths(path, files)
    return resolve_labels(files, registry, own_words)


def manifest_clinics(path: Path) -> tuple[str, ...]:
    """The clinics that a manifest names, in name order.

    Raises:
        DataError: it cannot be read, or names none.
    """
    path = path / FILE_NAME if path.is_dir() else path
    _, rows = _read_rows(path)
    names = _clinics_named(rows)
    if not names:
        raise DataError(f"manifest {path} names no clinic", remedy="add a column 'clinic'")
    return tuple(names)


def _read_rows(path: Path) -> tuple[tuple[str, ...], list[_Row]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=header.count), strict=True)
            columns = tuple(name.strip().lower() for name in next(reader, ()))
            rows = [_row(path, columns, values, reader.line_num) for values in reader if any(values)]
    except UnicodeDecodeError as error:
        raise DataError(f"manifest {path} is not UTF-8 text: {error}", remedy="save it as 'CSV UTF-8'") from error
    except csv.Error as error:
        raise DataError(
            f"manifest {path} is not a CSV table: {error}", remedy="save it again as 'CSV UTF-8'"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read manifest {path}: {error.strerror}", remedy="check data.path") from error
    if not rows:
        raise DataError(f"manifest {path} lists no cell", remedy="give it a header line and one line per image")
    return columns, rows


def _row(path: Path, columns: Sequence[str], values: Sequence[str], line: int) -> _Row:
    if len(values) > len(columns):
        raise DataError(
            f"manifest {path}, line {line} has {len(values)} values for {len(columns)} columns",
            remedy="put quotes around a value that holds the separator",
        )
    return _Row(line, {name: value.strip() for name, value in zip(columns, values, strict=False)})


def _check_columns(path: Path, columns: Sequence[str], registry: Registry) -> None:
    twice = sorted(name for name, count in Counter(columns).items() if name and count > 1)
    if twice:
        raise DataError(f"manifest {path} has column(s) twice: {', '.join(twice)}", remedy="keep one of each")
    own = REGISTRY_COLUMNS[registry.name]
    missing = [] if "path" in columns else ["path"]
    missing += [] if {own, "label"} & set(columns) else [f"{own} or label"]
    if missing:
        raise DataError(
            f"manifest {path} lacks column(s) {' and '.join(missing)}; it has {', '.join(columns)}",
            remedy="name the columns so in the header line",
        )


def _clinics_named(rows: Sequence[_Row]) -> list[str]:
    return sorted({row.text("clinic") for row in rows} - {""})


def _refuse_cells_of_others(path: Path, rows: Sequence[_Row], own_id: str, plan_clinics: Sequence[str]) -> None:
    """Refuse a consortium's manifest that does not name us: some of its cells may be a held-out clinic's."""
    names = _clinics_named(rows)
    theirs = {clinic.lower() for clinic in plan_clinics} - {own_id.lower()}
    others = [name for name in names if name.lower() in theirs]
    if own_id not in names and others:
        raise DataError(
            f"manifest {path} lists no cell of clinic '{own_id}', but those of {', '.join(others)}, also of this study",
            remedy="set data.clinic to the name under which the manifest lists our cells, or remove the other rows",
        )


def _rows_of_clinic(path: Path, rows: list[_Row], *, own_id: str, clinic: str | None) -> list[_Row]:
    names = _clinics_named(rows)
    if clinic is None and own_id not in names:
        return rows
    wanted = clinic or own_id
    if wanted not in names:
        named = f"it names {', '.join(names)}" if names else "it has no column 'clinic' that names any"
        raise DataError(f"manifest {path} lists no cell of clinic '{wanted}'; {named}", remedy="correct data.clinic")
    return [row for row in rows if row.text("clinic") == wanted]


def _labelled_file(path: Path, row: _Row, own_column: str, group_column: str) -> LabelledFile:
    name = row.text("path").replace("\\", "/")
    if not name:
        raise DataError(f"manifest {path}, line {row.line} has no path", remedy="fill it in or remove the line")
    group = row.text(group_column)
    return LabelledFile(
        path=Path(os.path.normpath(path.parent / name)),
        name=name,
        label=row.text(own_column) or row.text("label"),
        place=f"line {row.line}",
        # Two clinics of one manifest may both have a patient 1.
        group=f"{row.text('clinic')}/{group}" if group else "",
        near_duplicate=row.text("near_duplicate_cluster"),
        split=_split(path, row),
        um_per_px=_um_per_px(path, row),
    )


def _split(path: Path, row: _Row) -> str:
    word = row.text("split").lower()
    if word and word not in SPLIT_WORDS:
        raise DataError(
            f"manifest {path}, line {row.line}: split '{word}'; expected train, val or test", remedy="correct the line"
        )
    return SPLIT_WORDS.get(word, "")


def _um_per_px(path: Path, row: _Row) -> float | None:
    text = row.text("um_per_px").replace(",", ".")
    try:
        value = float(text) if text else None
    except ValueError:
        value = 0.0
    if value is not None and not 0 < value <= 10:
        raise DataError(
            f"manifest {path}, line {row.line}: um_per_px '{text}'; expected a number over 0 and up to 10",
            remedy="correct it, or leave it empty where the scale is unknown",
        )
    return value


def _check_paths(path: Path, files: Sequence[LabelledFile]) -> None:
    first: dict[Path, LabelledFile] = {}
    for file in files:
        if file.path in first:
            raise DataError(
                f"manifest {path} lists {file.name} twice, at {first[file.path].place} and {file.place}",
                remedy="keep one line per image",
            )
        first[file.path] = file
        # A missing file below the manifest is one unreadable image; outside it, a manifest of some other machine.
        if not file.path.is_relative_to(path.parent) and not file.path.exists():
            raise DataError(
                f"manifest {path}, {file.place}: {file.name} lies outside the manifest's folder and does not exist",
                remedy="write paths relative to the manifest",
            )
