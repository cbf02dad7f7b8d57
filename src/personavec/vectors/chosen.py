"""The trait specs of vectors that were chosen together."""

from __future__ import annotations

from collections.abc import Sequence

from personavec.errors import UsageError
from personavec.traits import TraitSpec, bundled_traits, load_trait
from personavec.vectors.vector import PersonaVector


def specs_of(vectors: Sequence[PersonaVector], files: Sequence[str] = ()) -> list[TraitSpec]:
    """Each vector's trait spec, of the files that were given or bundled.

    Raises UsageError for a trait that is neither.
    """
    given = {spec.name: spec for spec, _ in map(load_trait, files)}
    found = []
    for vector in vectors:
        spec = given.get(vector.trait)
        if spec is None and vector.trait not in bundled_traits():
            raise UsageError(
                f"the trait '{vector.trait}' is not bundled: give its spec file with --trait"
            )
        found.append(spec or load_trait(vector.trait)[0])
    return found
