"""Interactions of a pandas table. Shapes: R rows, B users."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from recbole_qbert.common.errors import InputError, did_you_mean, preview


def frame_interactions(
    frame: pd.DataFrame, user: str, item: str, time: str | None
) -> tuple[pa.Array, np.ndarray, pa.Array, np.ndarray | None]:
    """Read the columns of a table of interactions.

    Returns:
        users: tokens [B], in the order of their first rows.
        codes: int [R], the user of each row.
        items: tokens [R].
        times: numbers [R]; None if `time` is None.

    Raises:
        InputError: the table has no rows, or a column is missing, occurs twice, has missing values,
            or is of a type that cannot be used.
    """
    if not isinstance(frame, pd.DataFrame) or not len(frame):
        raise InputError("frame: give a pandas DataFrame with at least one row")
    for name in filter(None, (user, item, time)):
        if name not in frame:
            known = [str(each) for each in frame]
            raise InputError(
                f"frame: no column {name!r}; it has {preview(known)}{did_you_mean(name, known)}"
            )
        if [*frame].count(name) > 1:
            raise InputError(f"frame: two columns are named {name!r}; rename one")
        if frame[name].isna().any():
            row = int(frame[name].isna().argmax())
            raise InputError(f"frame: row {row}, {name}: no value; drop or fill such rows")
    users = _texts(frame, user).dictionary_encode()
    times = None
    if time is not None:
        dates = pd.api.types.is_datetime64_any_dtype(frame[time])
        if not dates and not pd.api.types.is_numeric_dtype(frame[time]):
            raise InputError(f"frame: column {time!r} is text; convert it with pandas.to_datetime")
        times = (frame[time].astype("int64") if dates else frame[time]).to_numpy()
    return users.dictionary, users.indices.to_numpy(), _texts(frame, item), times


def _texts(frame: pd.DataFrame, name: str) -> pa.Array:
    """Return a column of IDs as text; whole numbers are written without a fraction."""
    try:
        column = pa.array(frame[name])
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_floating(column.type):
            column = column.cast(pa.int64())
        return column.cast(pa.string())
    except pa.ArrowException:
        raise InputError(
            f"frame: column {name!r} has other values than text or whole numbers; convert it to "
            "text"
        ) from None
