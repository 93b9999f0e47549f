"""A page of results in Markdown, into which comparisons write their tables and pictures.

Each comparison owns the text between `<!-- comparison: NAME -->` and `<!-- end of comparison: NAME -->`; what people
wrote around it stays. A comparison that the page does not know yet is added at the end, under a heading.
"""

import re
from pathlib import Path
from typing import Any

from wbc_common.errors import SettingError
from wbc_common.files import write_atomically
from wbc_simulations.comparison.picture import draw_comparison
from wbc_simulations.scores import paired_table

_TITLE = "# Results\n"


def write_into_page(comparison: dict[str, Any], page: Path) -> Path:
    """Put a comparison's tables into a page, and its picture beside it; returns the picture's path.

    Raises:
        SettingError: the page opens the comparison's section and does not close it.
    """
    name = comparison["study"]
    picture = page.with_suffix("") / f"{name.replace(' ', '-')}.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_comparison(comparison, picture)
    text = page.read_text(encoding="utf-8") if page.exists() else _TITLE
    write_atomically(page, _with_section(text, name, _section(comparison, picture.relative_to(page.parent))).encode())
    return picture


def _section(comparison: dict[str, Any], picture: Path) -> str:
    seeds = ", ".join(map(str, comparison["seeds"]))
    folds = ", ".join(comparison["folds"])
    held_out = f"Each clinic in turn, {folds}" if comparison["hold_out"] == "nested" else folds
    told = (
        f"Held out: {held_out}. Seeds {seeds}. Points (0–100) with 95 % intervals over seeds and "
        "patients; Δ is paired: the same seeds, the same drawn patients."
    )
    alt = f"paired differences of {comparison['study']}"
    return f"{told}\n\n![{alt}]({picture.as_posix()})\n\n{paired_table(comparison)}"


def _with_section(text: str, name: str, section: str) -> str:
    first, last = f"<!-- comparison: {name} -->", f"<!-- end of comparison: {name} -->"
    block = f"{first}\n{section}{last}"
    if first not in text:
        return f"{text.rstrip()}\n\n## {name}\n\n{block}\n"
    found = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", re.DOTALL)
    if not found.search(text):
        raise SettingError(
            f"the page opens '{first}' and does not close it", remedy=f"add '{last}' below, or remove the opening"
        )
    return found.sub(lambda _: block, text, count=1)
