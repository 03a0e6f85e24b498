"""Agreement between the ranks of a tensor-parallel target."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


class Ranks:
    """The processes that hold one model between them; one alone needs no agreement.

    Every rank gets the same requests. Sums are ordered differently per rank, so a draw could
    fall differently: rank 0 draws, and the others keep what it kept.
    """

    def __init__(self, device: torch.device, size: int) -> None:
        self._device, self._size = device, size
        self.first = size == 1 or torch.distributed.get_rank() == 0

    def agree(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first rank's numbers, on every rank.

        Args:
            numbers: int64[N]; N is the same on all ranks.
        """
        if self._size == 1:
            return numbers
        shared = torch.from_numpy(numbers).to(self._device)
        torch.distributed.broadcast(shared, 0)
        return np.asarray(shared.cpu().numpy(), np.int64)
