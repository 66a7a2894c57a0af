"""Compact letter display: two models share a letter exactly if they do not differ significantly.

The insert-and-absorb algorithm: Piepho, "An Algorithm for a Letter-Based Representation of
All-Pairwise Comparisons", Journal of Computational and Graphical Statistics 13:2, 2004.
"""

from __future__ import annotations

from itertools import combinations
from string import ascii_lowercase

import numpy as np


def letters(separated: np.ndarray) -> list[str]:
    """Return the letters of each model; those of the first model contain an "a".

    A model between two models that differ significantly has the letters of both ("ab").

    Args:
        separated: (R, R) bool, symmetric: which pairs of models differ significantly; best model
            first.
    """
    if not len(separated):
        return []
    groups = sorted(_members(group) for group in _absorb(_insert(separated)))
    display = [""] * len(separated)
    for number, models in enumerate(groups):
        for model in models:
            display[model] += _letter(number)
    return display


def _insert(separated: np.ndarray) -> list[int]:
    """Split the group of all models at every significant pair; a group is a bit set of models."""
    groups = [(1 << len(separated)) - 1]
    for i, j in combinations(range(len(separated)), 2):
        if not separated[i, j]:
            continue
        pair = 1 << i | 1 << j
        unchanged = [group for group in groups if group & pair != pair]
        halves = [
            group & ~(1 << model) for group in groups if group & pair == pair for model in (i, j)
        ]
        for half in sorted(set(halves), key=int.bit_count, reverse=True):
            if not any(half & group == half for group in unchanged):  # else it is absorbed
                unchanged.append(half)
        groups = unchanged
        # Differences without a consistent order can give millions of groups, nearly all redundant.
        if len(groups) > 2 * len(separated):
            groups = _absorb(groups)
    return groups


def _absorb(groups: list[int]) -> list[int]:
    """Drop every group whose pairs all occur in another remaining group, smallest groups first."""
    n_models = max(groups, default=0).bit_length()
    counts = np.zeros((n_models, n_models), dtype=int)  # number of groups that contain both models
    for group in groups:
        counts[np.ix_(_members(group), _members(group))] += 1
    remaining = []
    for group in sorted(groups, key=lambda group: (group.bit_count(), -_members(group)[0])):
        pairs = np.ix_(_members(group), _members(group))
        if counts[pairs].min() > 1:
            counts[pairs] -= 1
        else:
            remaining.append(group)
    return remaining


def _members(group: int) -> list[int]:
    return [model for model in range(group.bit_length()) if group >> model & 1]


def _letter(number: int) -> str:
    """Return the name of a group: a to z, then a₁ to z₁, ..."""
    lap, place = divmod(number, len(ascii_lowercase))
    subscript = "".join(chr(ord("₀") + int(digit)) for digit in str(lap)) if lap else ""
    return ascii_lowercase[place] + subscript
