"""A head of plain images, whose influences are held against training again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from undue.calculus.factor import Factor
from undue.calculus.linear import LinearRisk
from undue.calculus.objective import Objective
from undue.training import train
from undue.validation.images import first_mistake


@dataclass(frozen=True)
class Head:
    """A head at its minimum, trained and factorised once for all that is asked of it.

    Attributes:
        objective: what it minimises.
        test: the test risk.
        theta: θ* (d, k, 1).
        factor: of the Hessian there.
        image: the test sample whose loss is predicted.
        gradient_norm: ‖∇R‖ that it is trained to, and all models that it is compared with.
    """

    objective: Objective[LinearRisk]
    test: LinearRisk
    theta: Tensor
    factor: Factor
    image: int
    gradient_norm: float

    @classmethod
    def of(cls, training: LinearRisk, test: LinearRisk, *, l2: float, gradient_norm: float) -> Head:
        """Train it; the test sample is the first that it gets wrong.

        Args:
            training, test: the risks.
            l2: λ.
            gradient_norm: ‖∇R‖ to train to.
        """
        objective = Objective(training, l2)
        theta = train(
            training,
            l2=l2,
            regularise_bias=True,
            gradient_norm=gradient_norm,
            key="validation.gradient_norm",
            l2_key="validation.l2",
        ).theta
        factor = Factor.of_head(objective, theta)
        return cls(objective, test, theta, factor, first_mistake(test, theta), gradient_norm)

    @property
    def training(self) -> LinearRisk:
        """The training risk."""
        return self.objective.risk

    def most_influential(self, values: Tensor, count: int) -> Tensor:
        """The samples of largest |I| (m,), of values (n,)."""
        return values.abs().topk(min(count, self.training.samples)).indices
