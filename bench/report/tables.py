"""Embed DataTables, from the itables package, to sort and filter the tables of a page."""

from __future__ import annotations

import re
from importlib.resources import files

CURE = "Install a supported version: pip install 'itables>=2.9'"


def script(source: str) -> str:
    """Return an inline module that binds `DataTable` and then runs `source`.

    Raises:
        RuntimeError: the installed bundle does not export DataTables.
    """
    bundle = (files("itables") / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    export = re.search(r"export\{[^}]*?([\w$]+) as default\b[^}]*\}", bundle)
    if export is None:
        raise RuntimeError(f"the bundle of itables does not export DataTables. {CURE}")
    module = f"{bundle}\n{{\nconst DataTable = {export[1]};\n{source}}}\n"
    # HTML would parse these two sequences as markup; the escapes have no effect in JavaScript.
    return module.replace("<!--", r"<\!--").replace("</script", r"<\/script")
