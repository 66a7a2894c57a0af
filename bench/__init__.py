"""cmd-bench: which foundation model sees cells best, answered with uncertainty."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout the plug-in folders lie beside this one; in a wheel, inside it.
_checkout = Path(__file__).parent.parent
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))
