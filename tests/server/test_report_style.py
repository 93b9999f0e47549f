"""The report: its colours can be read in both schemes."""

import re
from pathlib import Path

from wbc_server import report


def test_every_text_contrasts_with_its_ground_by_4_5_to_1_in_both_schemes() -> None:
    """WCAG 2.2, 1.4.3, computed here from its own definition."""
    css = (Path(report.__file__).parent / "style.css").read_text(encoding="utf-8")
    schemes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    light, dark = schemes[0], schemes[0] | schemes[1]
    shades = re.findall(r"\.([rw]\d) \{ background: (#[0-9a-f]{6}); color: var\(--([a-z]+)\)", css)
    assert len(shades) == 36
    for place, (_, ground, text) in enumerate(shades):
        assert contrast(ground, (light if place < 18 else dark)[text]) >= 4.5
    for scheme in (light, dark):
        for ground in ("paper", "raised"):
            assert min(contrast(scheme[ground], scheme[text]) for text in ("ink", "soft", "azure", "eosin")) >= 4.5
        for band in ("azure-band", "eosin-band"):
            assert contrast(scheme[band], scheme["ink"]) >= 4.5


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
