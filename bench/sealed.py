"""JSON files with an embedded hash and owner, to detect damaged and swapped files.

Files of older versions have no hash and are accepted unchecked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from bench.errors import Damaged
from bench.record import canonical

OF, SHA256 = "of", "sha256"


def sealed(body: Mapping[str, object], of: str) -> bytes:
    """Serialise a JSON object with its owner `of` and the sha256 of both."""
    owned = {**body, OF: of}
    return canonical({**owned, SHA256: _sha256(owned)}) + b"\n"


def unsealed(content: bytes, of: str) -> dict[str, object]:
    """Return the JSON object written by `sealed` or by an older version.

    Raises:
        Damaged: the content was changed, has another owner, or is not a JSON object.
    """
    try:
        body = json.loads(content)
        if not isinstance(body, dict):
            raise Damaged("it does not contain a JSON object")
        stated = body.pop(SHA256, None)
        has_hash = OF in body or stated is not None
        is_valid = not has_hash or stated == _sha256(body)
    except (ValueError, TypeError, RecursionError) as error:
        raise Damaged(f"it is not valid JSON ({error})") from error
    if not is_valid:
        raise Damaged("its content does not match its hash")
    if (owner := body.pop(OF, of)) != of:
        raise Damaged(f"it belongs to {owner}")
    return body


def is_sealed(content: bytes) -> bool:
    """Return whether a file was written with a hash."""
    return f'"{SHA256}"'.encode() in content


def _sha256(body: Mapping[str, object]) -> str:
    return hashlib.sha256(canonical(body)).hexdigest()
