"""Execute docs/notebook.ipynb; needs `pip install nbclient ipykernel`.

The runs are stored in a temporary folder, so the notebook shows the results of a first use.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

NOTEBOOK = Path(__file__).parent / "notebook.ipynb"
OUTPUT_TYPES = ("text/html", "text/plain", "image/png")


def main() -> None:
    """Execute every cell, and save the outputs without metadata."""
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
            for kind in set(data) - set(OUTPUT_TYPES):
                del data[kind]
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
    }
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
