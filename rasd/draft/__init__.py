"""Drafters: one file per kind, and one line each in `KINDS`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Protocol, Self, cast

from rasd.config import DrafterConfig
from rasd.errors import ConfigError
from rasd.stages import Drafter, DraftQuery, FeatureSink

if TYPE_CHECKING:
    from rasd.draft.weights import SharedWeights

Need = Literal["features", "embedding", "head"]

KINDS: Final[dict[str, str]] = {
    "eagle2": "rasd.draft.eagle:EagleDrafter",
}
"""Where each kind's class is; imported when it is asked for, because torch takes seconds."""


class LoadedDrafter(Drafter, FeatureSink, Protocol):
    """What a drafter's class offers beside the stage's contract.

    Attributes:
        needs: what it takes from the target: ``features``, the last hidden states, and the
            ``embedding`` or ``head`` tensors.
    """

    needs: ClassVar[frozenset[Need]]

    @classmethod
    def load(
        cls,
        config: DrafterConfig,
        target: str,
        *,
        revision: str | None = None,
        shared: SharedWeights | None = None,
    ) -> Self:
        """Reads the drafter, and from the target (directory or hub id) what it needs.

        Args:
            shared: those tensors, where the target lives in the same process.

        Raises:
            ModelError: a checkpoint cannot be read or does not fit.
            ConfigError: the limits are too small.
        """
        ...

    def ready(self, query: DraftQuery) -> bool:
        """Whether waiting for features gains nothing for this query."""
        ...

    def check_integrity(self) -> None:
        """Checks its books.

        Raises:
            RasdError: naming what is wrong.
        """
        ...


def drafter_class(kind: str) -> type[LoadedDrafter]:
    """The class of a kind.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"drafter.kind must be one of {', '.join(KINDS)}; got {kind!r}")
    module, name = KINDS[kind].split(":")
    return cast("type[LoadedDrafter]", getattr(import_module(module), name))
