"""Whether speculation pays at all, seen from outside: by whole steps, beside plain ones.

Costs and gains of single questions are weighed elsewhere (`rasd.engine.budget`); what no estimate
sees, the work of asking and of building trees among it, is in the time of a step. Knows no stage
and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from rasd.tree import DRAFT

_SHARE: Final = 0.006
"""Of a plain step, saved by each for trying to speculate again: the most that is ever lost."""

_FIRST: Final = 4.0
_MOST: Final = 8.0
_STAKE: Final = 0.4
_LENT: Final = 1.0
_WORST: Final = -2.0
_PAUSE: Final = 8.0
_SPARED: Final = 64
"""A step as long as `_PAUSE` plain ones is a pause of the process rather than what speculating
costs: a collection of garbage takes 50. One in so many steps loses nothing."""
_RATE: Final = 0.1
_BOUND: Final = 1.5


@dataclass(frozen=True, slots=True)
class Stepped:
    """What one step took and brought.

    Attributes:
        kinds: bit set of the sources that its sequences may use.
        used: those of them that were let; 0 where all decoded plainly.
        gaining: sequences that gained, each at least a token.
        tokens: they gained together.
        seconds: of the whole step.
        plain_s: what a verify of the same without trees takes.
        each_s: what a verify of nothing but the gaining sequences' newest tokens takes.
    """

    kinds: int
    used: int
    gaining: int
    tokens: int
    seconds: float
    plain_s: float
    each_s: float


@dataclass(slots=True)
class _Purse:
    """Time won by speculating, in plain steps, and what of it was lent; ``ratio`` of a plain step
    to its verify, ``spared`` steps until a pause is let pass again."""

    won: float = _FIRST
    owed: float = 0.0
    ratio: float = 1.0
    paused: bool = False
    spared: int = 0


@dataclass(slots=True)
class Pace:
    """Lets a batch decode with fewer sources, or plainly, for a while when it is faster that way.

    What speculating wins and loses goes into a purse, one for each set of sources and class of
    batch size. When the purse is empty the drafter is left out, which costs most; when that empties
    a purse, too, all decode plainly. Meanwhile little by little is saved to try again.
    """

    _purses: dict[tuple[int, int], _Purse] = field(default_factory=dict)

    def allowed(self, kinds: int, gaining: int) -> int:
        """Of a bit set of sources those that a step of so many sequences may use."""
        for used in (kinds, kinds & ~DRAFT):
            if used and not self._of(used, gaining).paused:
                return used
        return 0

    def welcome(self, kinds: int, gaining: int, tokens: int) -> None:
        """A sequence of so many tokens begins: what will be saved in its time may be spent at once.

        It may be of another kind than those before it.

        Args:
            kinds: sources that what runs may use; gaining: sequences that share its steps.
        """
        for used in {kinds, kinds & ~DRAFT} - {0}:
            purse = self._of(used, gaining)
            loan = min(_SHARE * tokens / max(gaining, 1) - purse.owed, _LENT - purse.won)
            if purse.paused and loan > 0:
                purse.won += loan
                purse.owed += loan
                purse.paused = purse.won < _STAKE

    def stepped(self, step: Stepped) -> None:
        """A step is over."""
        if step.gaining == 0 or step.plain_s <= 0:
            return
        for used in {step.kinds, step.kinds & ~DRAFT} - {0}:
            purse = self._of(used, step.gaining)
            if used == step.used:
                _win(purse, step)
            elif purse.paused:
                purse.won = min(purse.won + _SHARE - min(purse.owed, _SHARE), _MOST)
            purse.owed = max(purse.owed - _SHARE, 0.0)
            if not step.used:
                ratio = min(max(step.seconds / step.plain_s, 1 / _BOUND), _BOUND)
                purse.ratio += _RATE * (ratio - purse.ratio)
            purse.paused = purse.won < (_STAKE if purse.paused else 0.0)

    def _of(self, kinds: int, gaining: int) -> _Purse:
        return self._purses.setdefault((kinds, gaining.bit_length()), _Purse())


def _win(purse: _Purse, step: Stepped) -> None:
    """What was won or lost beside a plain step goes into the purse."""
    plain_s, each_s = purse.ratio * step.plain_s, purse.ratio * step.each_s
    won_s = (step.tokens - step.gaining) * each_s / step.gaining
    won_s -= step.seconds - plain_s
    purse.spared = max(purse.spared - 1, 0)
    if step.seconds > _PAUSE * plain_s and purse.spared == 0:
        purse.spared = _SPARED
    else:
        purse.won = min(purse.won + max(won_s / each_s, _WORST), _MOST)
