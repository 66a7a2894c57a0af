"""cmd-bench: which foundation model sees cells best, answered with uncertainty."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.library import compare, leaderboard, run

__version__ = "0.1.0"
__all__ = ["__version__", "compare", "leaderboard", "run"]

# In a checkout the plug-in folders lie beside this one; in a wheel, inside it.
_checkout = Path(__file__).parent.parent
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))


def __getattr__(name: str) -> object:
    """Import the Python interface on first use: it needs numpy and torch."""
    if name in ("compare", "leaderboard", "run"):
        from bench import library

        return getattr(library, name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
