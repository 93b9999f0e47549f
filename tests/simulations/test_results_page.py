"""A page of results: what comparisons write into it, what people wrote stays."""

from pathlib import Path
from typing import Any

import pytest

from wbc_common.errors import SettingError
from wbc_simulations.comparison.page import write_into_page
from wbc_simulations.scores import FIGURES


def a_comparison(study: str = "two clinics", value: float = 0.5) -> dict[str, Any]:
    def figures(difference: float) -> dict[str, Any]:
        mean = {"value": value, "low": value - 0.1, "high": value + 0.1}
        interval = {"value": difference, "low": difference - 0.01, "high": difference + 0.01}
        return {name: {"mean": mean, "difference": interval} for name in FIGURES}

    by_fold = {"macro_f1": {"west": {"value": value, "low": None, "high": None}}}
    methods = {
        name: {"baseline": "plain", "figures": figures(difference), "by_fold": by_fold}
        for name, difference in (("plain", 0.0), ("better", 0.2), ("worse", -0.2), ("<same> & so", 0.005))
    }
    return {"study": study, "seeds": [0, 1], "hold_out": "each", "folds": ["west"], "methods": methods}


def test_a_new_page_gets_the_table_and_the_picture(tmp_path: Path) -> None:
    picture = write_into_page(a_comparison(), tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    assert picture == tmp_path / "results" / "two-clinics.svg"
    assert "(results/two-clinics.svg)" in text
    assert "| better | 50.0 [40.0, 60.0] | +20.0 [+19.0, +21.0] |" in text
    drawn = picture.read_text()
    assert drawn.startswith("<?xml")
    assert "#1a6fb5" in drawn, "a gain whose interval excludes 0 is blue"
    assert "#c2410c" in drawn, "a loss whose interval excludes 0 is orange"
    assert "#8a8f98" in drawn, "a difference whose interval includes 0 is grey"


def test_written_again_a_comparison_replaces_its_own_text_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    write_into_page(a_comparison(), page)
    write_into_page(a_comparison("another"), page)
    page.write_text(page.read_text().replace("## another", "By hand.\n\n## another"))
    before = page.read_text()
    write_into_page(a_comparison(value=0.75), page)
    after = page.read_text()
    assert after != before
    assert after.replace("75.0 [65.0, 85.0]", "50.0 [40.0, 60.0]").replace("75.0 |", "50.0 |") == before


def test_the_same_comparison_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_into_page(a_comparison(), tmp_path / "a.md").read_bytes()
    assert write_into_page(a_comparison(), tmp_path / "b.md").read_bytes() == first


def test_a_section_that_is_not_closed_is_refused_and_the_page_is_kept(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("<!-- comparison: two clinics -->\n")
    with pytest.raises(SettingError, match="does not close"):
        write_into_page(a_comparison(), page)
    assert page.read_text() == "<!-- comparison: two clinics -->\n"
