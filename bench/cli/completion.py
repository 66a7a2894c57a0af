"""Shell completion of plug-in names; it does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Completion = Callable[[str], Iterator[tuple[str, str]]]


def names_of(kind: str) -> Completion:
    """Complete the last name of a list, A,B,..., with the plug-ins of a kind and their titles."""

    def complete(incomplete: str) -> Iterator[tuple[str, str]]:
        from bench import registry

        before, comma, begun = incomplete.rpartition(",")
        for name, entries in sorted(registry.catalogue(kind).found.items()):
            if name.startswith(begun) and name not in before.split(","):
                yield f"{before}{comma}{name}", entries[0].record.title

    return complete


def kinds(incomplete: str) -> list[str]:
    """Complete a kind of plug-in."""
    from bench import registry

    return [kind for kind in registry.KINDS if kind.startswith(incomplete)]


backbones = names_of("backbones")
datasets = names_of("datasets")
heads = names_of("heads")
leaderboards = names_of("leaderboards")
protocols = names_of("protocols")
