"""Manifests as hospitals write them, right and wrong."""

import csv
import os
from pathlib import Path

import pytest

from wbc_client.dataset.listing import NO_LABEL, Listing
from wbc_client.dataset.manifest import read_manifest
from wbc_common.cells import REGISTRIES, Registry
from wbc_common.errors import DataError, SettingError

FIVE, THIRTEEN = REGISTRIES["wbc5"], REGISTRIES["wbc13"]
REAL = Path(os.environ.get("WBC_REALDATA") or Path(__file__).parents[3] / "shared" / "realdata")


def _read(
    folder: Path,
    text: str,
    registry: Registry = FIVE,
    *,
    clinic: str | None = None,
    words: dict[str, str] | None = None,
    encoding: str = "utf-8",
) -> Listing:
    path = folder / "manifest.csv"
    path.write_bytes(text.encode(encoding))
    return read_manifest(path, registry, own_words=words or {}, own_id="here", clinic=clinic)


def _classes(listing: Listing, registry: Registry = FIVE) -> list[tuple[str, ...]]:
    return [tuple(registry.classes[index] for index in allowed) for allowed in listing.allowed]


def test_the_least_manifest_is_a_path_and_a_label(tmp_path: Path) -> None:
    listing = _read(tmp_path, "path,label\nb/2.png,Monocyte\na/1.png,BNE\n")
    assert [file.path for file in listing.files] == [tmp_path / "b" / "2.png", tmp_path / "a" / "1.png"]
    assert [file.name for file in listing.files] == ["b/2.png", "a/1.png"]
    assert _classes(listing) == [("monocyte",), ("neutrophil",)]


def test_a_folder_that_holds_a_manifest_will_do(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path,label\n1.png,eosinophil\n")
    assert len(read_manifest(tmp_path, FIVE, own_words={}, own_id="here").files) == 1


def test_every_column_is_read(tmp_path: Path) -> None:
    text = (
        "path,label,clinic,patient,near_duplicate_cluster,split,um_per_px\n"
        '1.png,monocyte,x,P1,D1,Valid,"0,25"\n'
        "2.png,monocyte,y,P1,,train,\n"
    )
    first, second = _read(tmp_path, text).files
    assert (first.near_duplicate, first.split, first.um_per_px) == ("D1", "val", 0.25)
    assert (second.near_duplicate, second.split, second.um_per_px) == ("", "train", None)
    assert first.group != second.group  # two clinics' patients of one name


@pytest.mark.parametrize("column", ["group", "patient", "slide"])
def test_the_group_may_be_called_patient_or_slide(tmp_path: Path, column: str) -> None:
    files = _read(tmp_path, f"path,label,{column}\n1.png,eos,A\n2.png,eos,A\n3.png,eos,\n").files
    assert files[0].group == files[1].group != ""
    assert files[2].group == ""


def test_the_registrys_own_column_goes_first_and_the_label_fills_its_gaps(tmp_path: Path) -> None:
    text = "path,class5,label\n1.png,basophil,monocyte\n2.png,,monocyte\n3.png,,platelet\n4.png,,\n"
    listing = _read(tmp_path, text)
    assert _classes(listing) == [("basophil",), ("monocyte",)]
    assert listing.left_out == {"platelet": 1, NO_LABEL: 1}


def test_a_coarse_label_allows_several_classes(tmp_path: Path) -> None:
    listing = _read(tmp_path, "path,label\n1.png,neutrophil\n", THIRTEEN)
    assert _classes(listing, THIRTEEN) == [("band_neutrophil", "segmented_neutrophil")]


def test_all_unknown_labels_are_named_at_once_with_counts_and_a_line(tmp_path: Path) -> None:
    text = "path,label\n1.png,granny\n2.png,monocyte\n3.png,granny\n4.png,mononoke\n"
    with pytest.raises(
        DataError, match=r"2 label.*'granny' \(2 ×, first at line 2\).*'mononoke' \(1 ×, first at line 5\)"
    ):
        _read(tmp_path, text)


def test_the_clinics_own_words_are_understood(tmp_path: Path) -> None:
    listing = _read(tmp_path, "path,label\n1.png,Gran-ny\n2.png,junk\n", words={"gran ny": "monocyte", "junk": "other"})
    assert _classes(listing) == [("monocyte",)]
    assert listing.left_out == {"junk": 1}


def test_an_own_word_for_something_unknown_is_a_setting_error(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"granny.*monocite.*monocyte"):
        _read(tmp_path, "path,label\n1.png,granny\n", words={"granny": "monocite"})


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path,label\n1.png,monocyte\n", "utf-8-sig"),
        ("path;label\n1.png;monocyte\n", "utf-8"),
        ("path\tlabel\r\n1.png\tmonocyte\r\n", "utf-8"),
        (" Path , LABEL \n 1.png , monocyte \n\n", "utf-8"),
        ('path,label,origin\n1.png,monocyte,"a, b\nc"\n', "utf-8"),
    ],
    ids=["byte order mark", "semicolons", "tabs", "spaces and an empty line", "quoted newline"],
)
def test_spreadsheets_of_every_habit_are_read(tmp_path: Path, text: str, encoding: str) -> None:
    listing = _read(tmp_path, text, encoding=encoding)
    assert [file.name for file in listing.files] == ["1.png"]
    assert _classes(listing) == [("monocyte",)]


def test_windows_paths_are_understood(tmp_path: Path) -> None:
    assert _read(tmp_path, "path,label\na\\1.png,monocyte\n").files[0].path == tmp_path / "a" / "1.png"


MANY = "path,label,clinic\n1.png,monocyte,here\n2.png,basophil,there\n3.png,basophil,there\n"


def test_our_own_rows_are_taken_where_the_manifest_names_us(tmp_path: Path) -> None:
    assert [file.name for file in _read(tmp_path, MANY).files] == ["1.png"]


def test_another_clinics_rows_are_taken_on_request(tmp_path: Path) -> None:
    assert [file.name for file in _read(tmp_path, MANY, clinic="there").files] == ["2.png", "3.png"]


def test_all_rows_are_taken_where_the_manifest_does_not_know_us(tmp_path: Path) -> None:
    assert len(_read(tmp_path, MANY.replace("here", "elsewhere")).files) == 3


def test_a_wrong_row_of_another_clinic_is_none_of_our_business(tmp_path: Path) -> None:
    assert len(_read(tmp_path, MANY + "4.png,granny,there\n").files) == 1


def test_a_clinic_that_is_not_listed_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'nowhere'; it names here, there"):
        _read(tmp_path, MANY, clinic="nowhere")
    with pytest.raises(DataError, match="no column 'clinic'"):
        _read(tmp_path, "path,label\n1.png,monocyte\n", clinic="nowhere")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,label\n1.png,monocyte\n", "lacks column.* path; it has file, label"),
        ("path,class13\n1.png,monocyte\n", "lacks column.* class5 or label"),
        ("path,label,label\n1.png,monocyte,monocyte\n", "twice: label"),
        ("", "lists no cell"),
        ("path,label\n", "lists no cell"),
        ("path,label\n1.png,a,b\n", "line 2 has 3 values for 2 columns"),
        ("path,label\n,monocyte\n", "line 2 has no path"),
        ("path,label\n1.png,monocyte\na/../1.png,monocyte\n", "twice, at line 2 and line 3"),
        ("path,label,split\n1.png,monocyte,dev\n", "line 2: split 'dev'; expected train"),
        ("path,label,um_per_px\n1.png,monocyte,big\n", "line 2: um_per_px 'big'"),
        ("path,label,um_per_px\n1.png,monocyte,nan\n", "line 2: um_per_px 'nan'"),
        ("path,label,um_per_px\n1.png,monocyte,-1\n", "line 2: um_per_px '-1'"),
        ("path,label\n../gone.png,monocyte\n", r"line 2: \.\./gone\.png lies outside"),
        ("path,label\n/gone/1.png,monocyte\n", "lies outside"),
        ('path,label\n"1.png,monocyte\n', "not a CSV table: unexpected end of data"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_line_or_column(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        _read(tmp_path, text)


def test_another_encoding_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not UTF-8 text") as refusal:
        _read(tmp_path, "path,label\nMüller.png,monocyte\n", encoding="latin-1")
    assert "CSV UTF-8" in refusal.value.remedy


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv"):
        read_manifest(tmp_path / "gone.csv", FIVE, own_words={}, own_id="here")


def test_a_path_outside_the_folder_is_taken_where_it_exists(tmp_path: Path) -> None:
    (tmp_path / "1.png").touch()
    (tmp_path / "inner").mkdir()
    listing = _read(tmp_path / "inner", f"path,label\n../1.png,monocyte\n{tmp_path / 'inner' / '2.png'},monocyte\n")
    assert [file.path for file in listing.files] == [tmp_path / "1.png", tmp_path / "inner" / "2.png"]


@pytest.mark.skipif(not (REAL / "manifest.csv").exists(), reason=f"no real cells at {REAL} (set WBC_REALDATA)")
def test_the_real_sources_words_mean_the_classes_that_their_manifest_states(tmp_path: Path) -> None:
    with (REAL / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def read_with(columns: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        with (tmp_path / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        listing = read_manifest(tmp_path, FIVE, own_words={}, own_id="here")
        return {file.name: allowed for file, allowed in zip(listing.files, listing.allowed, strict=True)}

    by_class, by_label = read_with(("path", "class5")), read_with(("path", "label"))
    assert len(by_class) == sum(bool(row["class5"]) for row in rows)
    assert by_class == by_label == read_with(("path", "class5", "label"))
