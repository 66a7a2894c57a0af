"""Former name of a part of `tiny`; import from there."""

from tiny import Colours, Place, place

__all__ = ["Colours", "Place", "place"]
