"""The study's report: one HTML file that answers first, then shows its evidence.

It reads `metrics.json` and `rounds.jsonl` of a run and nothing else, so that a coordinator can pass it on: no image, no
script, no outside resource, and the same bytes for the same inputs. `inputs` checks what is read, `findings` states
what it means in words, `tables` and `charts` shape the evidence, `page` puts them together.
"""

from wbc_server.report.page import write_report
from wbc_server.report.svg import load_drawing

__all__ = ["load_drawing", "write_report"]
