"""Access tokens for the Hub, which are refused wherever they would be kept or shown."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from clp_core.errors import InputError

ACCESS_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")


def refuse_access_tokens(texts: Sequence[str]) -> None:
    """Refuse what holds an access token for the Hub: it would stand in files, logs and pages.

    Raises:
        InputError: it does.
    """
    own = os.environ.get("HF_TOKEN", "")
    if any(ACCESS_TOKEN.search(text) or (own and own in text) for text in texts):
        raise InputError("that holds an access token for the Hub; run `hf auth login` instead of naming it here")
