"""Run docs/notebook.ipynb anew: `pip install nbclient ipykernel`, then this file.

The runs go to a temporary folder, so that the notebook shows what a first visit shows.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

NOTEBOOK = Path(__file__).parent / "notebook.ipynb"
KEPT = ("text/html", "text/plain", "image/png")


def main() -> None:
    """Execute every cell, and keep the outputs."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENCH_RESULTS"] = str(Path(folder) / "results")
        os.environ["BENCH_CACHE"] = str(Path(folder) / "cache")
        NotebookClient(notebook, kernel_name="python3", timeout=900).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", ()):
            output["metadata"] = {}
            data = output.get("data", {})
            for kind in set(data) - set(KEPT):
                del data[kind]
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
    }
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
