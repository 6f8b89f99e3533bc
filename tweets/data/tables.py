"""Read a table that a stage wrote."""

from pathlib import Path

import pandas as pd

from tweets.errors import UserError, one_line


def read_parquet(path: Path) -> pd.DataFrame:
    """Return the table in the Parquet file at `path`. Raises UserError when it is missing or damaged."""
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro` writes it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not the table that `dvc repro` writes: {one_line(error)[:200]}") from None
