"""Whether speculation pays at all, seen from outside: by whole steps, beside plain ones.

Costs and gains of single questions are weighed elsewhere (`rasd.engine.budget`); what no estimate
sees, the work of asking and of building trees among it, is in the time of a step. Knows no stage
and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_SHARE: Final = 0.01
"""Of a plain step, saved by each for trying to speculate again: the most that is ever lost."""

_FIRST: Final = 4.0
_MOST: Final = 8.0
_STAKE: Final = 0.4
_WORST: Final = -2.0
_RATE: Final = 0.1
_BOUND: Final = 1.5


@dataclass(frozen=True, slots=True)
class Stepped:
    """What one step took and brought.

    Attributes:
        kinds: bit set of the sources that its sequences may use.
        gaining: sequences that gained, each at least a token.
        tokens: they gained together.
        seconds: of the whole step.
        plain_s: what a verify of the same without trees takes.
        each_s: what a verify of nothing but the gaining sequences' newest tokens takes.
        speculated: whether there was a tree or a question.
    """

    kinds: int
    gaining: int
    tokens: int
    seconds: float
    plain_s: float
    each_s: float
    speculated: bool


@dataclass(slots=True)
class _Purse:
    """Time won by speculating, in plain steps; ``ratio`` of a plain step to its verify."""

    won: float = _FIRST
    ratio: float = 1.0
    paused: bool = False


@dataclass(slots=True)
class Pace:
    """Lets a batch decode plainly for a while when it is faster that way.

    What speculating wins and loses goes into a purse, one for each set of sources and class of
    batch size. When the purse is empty all decode plainly, until enough is saved to try again.
    """

    _purses: dict[tuple[int, int], _Purse] = field(default_factory=dict)

    def speculates(self, kinds: int, gaining: int) -> bool:
        """Whether a step of so many sequences that use these sources may speculate."""
        return not self._of(kinds, gaining).paused

    def stepped(self, step: Stepped) -> None:
        """A step is over."""
        if step.gaining == 0 or step.plain_s <= 0:
            return
        purse = self._of(step.kinds, step.gaining)
        if step.speculated:
            plain_s, each_s = purse.ratio * step.plain_s, purse.ratio * step.each_s
            won_s = (step.tokens - step.gaining) * each_s / step.gaining
            won_s -= step.seconds - plain_s
            purse.won = min(purse.won + max(won_s / each_s, _WORST), _MOST)
        else:
            ratio = min(max(step.seconds / step.plain_s, 1 / _BOUND), _BOUND)
            purse.ratio += _RATE * (ratio - purse.ratio)
            purse.won = min(purse.won + _SHARE, _MOST)
        purse.paused = purse.won < (_STAKE if purse.paused else 0.0)

    def _of(self, kinds: int, gaining: int) -> _Purse:
        return self._purses.setdefault((kinds, gaining.bit_length()), _Purse())
