"""Suggestions of similar names for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Text such as "; did you mean market1501?", or an empty text without a similar name.

    Args:
        name: unknown name.
        known: valid names.
        cutoff: smallest similarity in [0, 1]; 0 always suggests a name.
    """
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {matches[0]}?" if matches else ""
