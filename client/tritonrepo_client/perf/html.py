"""The report as one HTML file: no network, the figures as JSON inside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def as_html(result: dict[str, Any]) -> str:
    """The report.

    Names of models, words of servers and the like come from outside: the page shows them as text, and here they cannot
    end the element that holds them.
    """
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    data = json.dumps(result, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        data = data.replace(letter, f"\\u{ord(letter):04x}")
    return template.replace("/*RESULT*/", data, 1)
