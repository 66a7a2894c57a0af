"""Compact letter display: models that are not separable share a letter, separable ones share none.

Insert and absorb: Piepho, "An Algorithm for a Letter-Based Representation of All-Pairwise
Comparisons", Journal of Computational and Graphical Statistics 13:2, 2004.
"""

from __future__ import annotations

from itertools import combinations
from string import ascii_lowercase

import numpy as np



def letters(separated: np.ndarray) -> list[str]:
    """Give each model its letters; the first model has an "a".

    A model that lies between two separable ones carries the letters of both ("ab").

    Args:
        separated: (R, R) bool, symmetric: which pairs of models are separable; best model first.
    """
    if not len(separated):
        return []
    own = [""] * len(separated)
    for number, members in enumerate(_groups(separated)):
        for model in np.flatnonzero(members):
            own[model] += _letter(number)
    return own


def _groups(separated: np.ndarray) -> np.ndarray:
    """Give the groups that share a letter, in their order: (G, R), 1 for a member."""
    groups = sorted(_members(group) for group in _swept(_inserted(separated)))
    return np.array([np.isin(np.arange(len(separated)), own) for own in groups], dtype=float)


def _inserted(separated: np.ndarray) -> list[int]:
    """Split the group of all models at every separable pair; a group is a set of bits."""
    groups = [(1 << len(separated)) - 1]
    for i, j in combinations(range(len(separated)), 2):
        if not separated[i, j]:
            continue
        pair = 1 << i | 1 << j
        kept = [group for group in groups if group & pair != pair]
        halves = [
            group & ~(1 << model) for group in groups if group & pair == pair for model in (i, j)
        ]
        for half in sorted(set(halves), key=int.bit_count, reverse=True):
            if not any(half & group == half for group in kept):  # else it is absorbed
                kept.append(half)
        # Where differences obey no order there may be millions of groups, nearly all of no use.
        groups = _swept(kept) if len(kept) > 2 * len(separated) else kept
    return groups


def _swept(groups: list[int]) -> list[int]:
    """Drop the groups all of whose pairs stand in another one too, small groups first."""
    models = max(groups, default=0).bit_length()
    together = np.zeros((models, models), dtype=int)  # in how many groups two models meet
    for group in groups:
        together[np.ix_(_members(group), _members(group))] += 1
    kept = []
    for group in sorted(groups, key=lambda group: (group.bit_count(), -_members(group)[0])):
        own = np.ix_(_members(group), _members(group))
        if together[own].min() > 1:
            together[own] -= 1
        else:
            kept.append(group)
    return kept


def _members(group: int) -> list[int]:
    return [model for model in range(group.bit_length()) if group >> model & 1]


def _letter(number: int) -> str:
    """Name a group: a to z, then a₁ to z₁, ..."""
    lap, place = divmod(number, len(ascii_lowercase))
    below = "".join(chr(ord("₀") + int(digit)) for digit in str(lap)) if lap else ""
    return ascii_lowercase[place] + below
