"""A preconditioner for Hessians that are large in few directions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from undue.calculus.solvers import LaneOperator, few_steps


@dataclass(frozen=True)
class Principal:
    """Preconditions by a few conjugate gradient steps in the last rows, and by the diagonal elsewhere.

    For Hessians that are large in few directions, which an eigenbasis of the features puts last: products in
    these rows alone cost a fraction of a whole one.

    Attributes:
        block: H on the last rows, vectors (m, k, L).
        rows: m.
        diagonal: approximates that of H, positive (d, k, L).
        steps: of conjugate gradients on the block.
    """

    block: LaneOperator
    rows: int
    diagonal: Tensor
    steps: int

    def __call__(self, r: Tensor) -> Tensor:
        """See the class."""
        z = r / self.diagonal
        z[-self.rows :] = few_steps(self.block, r[-self.rows :], self.diagonal[-self.rows :], self.steps)
        return z

    def narrow(self, lanes: Tensor) -> Principal:
        """Of the chosen lanes alone."""
        return Principal(self.block.narrow(lanes), self.rows, self.diagonal[..., lanes], self.steps)
