"""The library that sorts and filters the tables of a page: DataTables, as itables bundles it."""

from __future__ import annotations

import re
from importlib.resources import files

CURE = "Install a version that the project names: pip install 'itables>=2.9'"


def script(own: str) -> str:
    """Give an inline module that binds `DataTable`, then does what `own` says.

    Raises:
        RuntimeError: the installed bundle does not export DataTables.
    """
    bundle = (files("itables") / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    found = re.search(r"export\{[^}]*?([\w$]+) as default\b[^}]*\}", bundle)
    if found is None:
        raise RuntimeError(f"itables has no bundle that exports DataTables. {CURE}")
    whole = f"{bundle}\n{{\nconst DataTable = {found[1]};\n{own}}}\n"
    # In the text of a script element these two would be markup; in JavaScript they stay the same.
    return whole.replace("<!--", r"<\!--").replace("</script", r"<\/script")
