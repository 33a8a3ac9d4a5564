"""Single solves with the Hessian of very many samples, preconditioned by that of some of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undue.calculus.linear import LinearRisk
from undue.calculus.objective import Objective
from undue.calculus.solvers import LaneOperator, Preconditioner, Solution, few_steps, narrowed, refine

# Samples that precondition, and steps on their Hessian.
SAMPLES = 3_000
STEPS = 6
# What is asked of float32, whose rounding leaves a few 1e-5, in one go.
INNER_LIMIT = 1e-4


def solve_once(
    objective: Objective[LinearRisk],
    theta: Tensor,
    b: Tensor,
    *,
    damping: float = 0.0,
    tolerance: float,
    generator: torch.Generator | None = None,
) -> Solution:
    """Solve H_δ x = b by conjugate gradients in float32, refined to float64's residual.

    Preconditioned by some samples' Hessian, without the eigenbasis of them all: what many solves share is not
    repaid by a single one.

    Args:
        objective: what H_δ is the Hessian of: data in float64, all samples weighing alike.
        theta: θ (d, k, 1).
        b: right-hand side (d, k, 1).
        damping: δ.
        tolerance: relative residual to reach.
        generator: draws the samples, seeded with 0 if not given.
    """
    risk, fast, low = objective.risk, objective.risk.to(torch.float32), theta.float()
    rows = torch.randperm(risk.samples, generator=generator or torch.Generator().manual_seed(0))[:SAMPLES]
    every, few = (
        Objective(part, objective.l2, regularise_bias=objective.regularise_bias)
        for part in (fast, fast.rows(rows))
    )
    preconditioner = Sampled(
        few.hessian(few.risk.at(low), damping=damping),
        Kronecker.of(every, low, rows, damping=damping),
        STEPS,
    )
    return refine(
        objective.hessian(risk.at(theta), damping=damping),
        b,
        project=risk.project,
        inner=every.hessian(fast.at(low), damping=damping),
        inner_dtype=torch.float32,
        inner_limit=INNER_LIMIT,
        tolerance=tolerance,
        preconditioner=preconditioner,
    )


@dataclass(frozen=True)
class Sampled:
    """Preconditions by a few conjugate gradient steps on the Hessian of some of the samples.

    Sub-sampled Newton methods (Roosta-Khorasani & Mahoney 2019, Math. Program. 174) solve with such a Hessian
    in place of the whole one; here it only shortens the way to the whole one's solution.

    Attributes:
        hessian: of some samples.
        preconditioner: of these steps.
        steps: how many.
    """

    hessian: LaneOperator
    preconditioner: Tensor | Preconditioner
    steps: int

    def __call__(self, r: Tensor) -> Tensor:
        """See the class; (d, k, L)."""
        return few_steps(self.hessian, r, self.preconditioner, self.steps)

    def narrow(self, lanes: Tensor) -> Sampled:
        """Of the chosen lanes alone."""
        return Sampled(self.hessian.narrow(lanes), narrowed(self.preconditioner, lanes), self.steps)


@dataclass(frozen=True)
class Kronecker:
    """Approximates Σ_i w_i C_i ⊗ x_i x_iᵀ + ridge in the eigenbases of the mean C and of the moments of x.

    Martens & Grosse 2015 (K-FAC, arXiv:1503.05671) take C and x as independent; George et al. 2018
    (arXiv:1806.03884) keep that basis and correct the eigenvalues to the Hessian's own diagonal there.
    Estimated from some of the samples, it costs no more than a few of the iterations that it saves.

    Attributes:
        features: eigenvectors of the features' second moments, samples weighted by tr C_i (d, d).
        outputs: those of the mean C (k, k).
        diagonal: the Hessian's diagonal in both, with the ridge (d, k).
    """

    features: Tensor
    outputs: Tensor
    diagonal: Tensor

    @classmethod
    def of(
        cls, objective: Objective[LinearRisk], theta: Tensor, rows: Tensor, *, damping: float = 0.0
    ) -> Kronecker:
        """Estimate it from some samples, taken as drawn by chance.

        Args:
            objective: what H_δ is the Hessian of; weights alike.
            theta: θ (d, k, 1).
            rows: the samples (m,).
            damping: δ.
        """
        risk = objective.risk.rows(rows)
        x, y, k = risk.x, risk.y, risk.shape[1]
        state = risk.link.state((x @ theta[..., 0])[..., None], y)

        def curve(v: Tensor) -> Tensor:
            """C_i v of every sample (m, k)."""
            return risk.link.curve(state, y, v.expand(len(x), k)[..., None].contiguous())[..., 0]

        units = torch.eye(k, dtype=x.dtype, device=x.device)
        _, outputs = torch.linalg.eigh(torch.stack([curve(unit).mean(dim=0) for unit in units]))
        trace = risk.link.curvature(state, y).sum(dim=1)
        _, features = torch.linalg.eigh(x.T @ (x * trace))
        curvatures = torch.stack([curve(v) @ v for v in outputs.T], dim=1)
        diagonal = (x @ features).square().T @ curvatures / len(x)
        # The basis mixes the bias with the rest: if λ spares it, its ridge is spread as its share.
        ridge = features.square().T @ (objective.ridge()[:, 0] + damping)
        return cls(features, outputs, diagonal + ridge)

    def __call__(self, r: Tensor) -> Tensor:
        """The approximate H_δ⁻¹ r of one lane (d, k, 1), in any precision."""
        u, v, diagonal = (part.to(r) for part in (self.features, self.outputs, self.diagonal))
        return (u @ ((u.T @ r[..., 0] @ v) / diagonal) @ v.T)[..., None]

    def narrow(self, lanes: Tensor) -> Kronecker:
        """It is of one lane."""
        return self
