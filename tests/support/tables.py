"""Tables in the tests of sources."""

from typing import Any

import pandas as pd

from tweets.data.own_tables import CsvColumns

TABLE = pd.DataFrame({"text": ["a fine day", "late again", "café, open"], "label": ["good", "bad", "good"]})


def columns(**changes: Any) -> CsvColumns:
    defaults: dict[str, Any] = {
        "text": "text",
        "label": "label",
        "id": None,
        "confidence": None,
        "split": None,
        "labels": None,
        "encoding": "utf-8",
        "separator": None,
        "quoting": "auto",
        "names": None,
    }
    return CsvColumns(**(defaults | changes))
