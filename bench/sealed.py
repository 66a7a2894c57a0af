"""JSON files that carry their own hash, and say what they belong to.

So one that was damaged, or that changed places with another, is told from a whole one. Those that
older versions wrote carry no hash, and are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from bench.errors import Damaged
from bench.record import canonical

OF, SHA256 = "of", "sha256"


def sealed(body: Mapping[str, object], of: str) -> bytes:
    """Write a JSON object with what it belongs to, and the sha256 of both."""
    whole = {**body, OF: of}
    return canonical({**whole, SHA256: _sha256(whole)}) + b"\n"


def unsealed(content: bytes, of: str) -> dict[str, object]:
    """Give back what `sealed` wrote, or the JSON object of an older version.

    Raises:
        Damaged: it was changed, belongs to something else, or is no JSON object.
    """
    try:
        body = json.loads(content)
        if not isinstance(body, dict):
            raise Damaged("it holds no JSON object")
        stated = body.pop(SHA256, None)
        whole = stated == _sha256(body) if OF in body or stated is not None else True
    except (ValueError, TypeError, RecursionError) as error:
        raise Damaged(f"it is no JSON that can be read ({error})") from error
    if not whole:
        raise Damaged("its content does not match its own hash")
    if (owner := body.pop(OF, of)) != of:
        raise Damaged(f"it belongs to {owner}")
    return body


def is_sealed(content: bytes) -> bool:
    """Tell whether a version that writes such hashes wrote a file."""
    return f'"{SHA256}"'.encode() in content


def _sha256(body: Mapping[str, object]) -> str:
    return hashlib.sha256(canonical(body)).hexdigest()
