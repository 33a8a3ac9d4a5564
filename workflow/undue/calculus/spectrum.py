"""The extreme eigenvalues of a Hessian, and what damping makes it positive definite.

A network that has not converged, or a non-convex one, may have a Hessian with negative eigenvalues,
where influence is undefined (Koh & Liang 2017, §4.2, footnote 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from undue.calculus.solvers import Operator, dense_matrix
from undue.errors import UserError

# Below so many parameters the whole matrix is cheaper than Lanczos, and exact.
DENSE = 64
# Lanczos vectors kept: more memory, far fewer products where eigenvalues crowd at an end.
SUBSPACE = 80
# Residual of each eigenvalue, relative to the largest of the spectrum; Lanczos restarts before it gives up.
TOLERANCE = 1e-6
MAX_RESTARTS = 300
# Advice leaves the smallest eigenvalue at least this share of the largest, to solve with.
HEADROOM = 1e-3


@dataclass(frozen=True)
class Extremes:
    """The ends of a symmetric operator's spectrum.

    Attributes:
        smallest, largest: the eigenvalues.
        error: an eigenvalue lies within this of each (the larger residual norm ‖Hv − λv‖, ‖v‖ = 1).
        products: Hessian products used.
    """

    smallest: float
    largest: float
    error: float
    products: int


def extremes(operator: Operator, like: Tensor, *, key: str = "influence.damping") -> Extremes:
    """The smallest and the largest eigenvalue, by Lanczos (ARPACK: Lehoucq, Sorensen & Yang 1998).

    Args:
        operator: v ↦ Hv on one lane (d, k, 1), H symmetric.
        like: a tensor of that shape, precision and device.
        key: the config key of the damping, for the error's advice.

    Raises:
        ValueError: `like` has several lanes (each has a Hessian of its own).
        FloatingPointError: a product is not finite.
        UserError: no convergence.
    """
    if like.shape[-1] != 1:
        raise ValueError("the extremes of a spectrum are taken of one lane at a time")
    size = like.numel()
    if size <= DENSE:
        matrix = _finite(dense_matrix(operator, like)).double()
        values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
        return Extremes(float(values[0]), float(values[-1]), 0.0, size)
    products = 0

    def product(v: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        hv = _finite(operator(torch.tensor(v, dtype=like.dtype, device=like.device).view_as(like)))
        return hv.reshape(-1).double().cpu().numpy()

    begin = np.random.Generator(np.random.Philox(0)).standard_normal(size)
    options = {"v0": begin, "ncv": min(size, SUBSPACE), "maxiter": MAX_RESTARTS}
    hessian = LinearOperator((size, size), matvec=product, dtype=np.float64)
    try:
        (extent,) = np.abs(eigsh(hessian, k=1, which="LM", tol=1e-2, return_eigenvectors=False, **options))
        # ARPACK's tolerance is relative to each eigenvalue, which would never be met at one near zero:
        # shift the spectrum to [extent, 3 extent].
        shift = 2 * extent
        shifted = LinearOperator((size, size), matvec=lambda v: product(v) + shift * v, dtype=np.float64)
        values, vectors = eigsh(shifted, k=2, which="BE", tol=TOLERANCE, **options)
    except ArpackNoConvergence as error:
        raise UserError(
            f"the ends of the Hessian's spectrum were not found with {products} Hessian products",
            where=key,
            remedy=f"raise {key}: its eigenvalues lie too close together to be told apart",
        ) from error
    values = values - shift
    errors = [np.linalg.norm(product(v) - value * v) for value, v in zip(values, vectors.T, strict=True)]
    return Extremes(float(values[0]), float(values[1]), float(max(errors)), products)


def require_positive_definite(
    operator: Operator, like: Tensor, *, damping: float, key: str = "influence.damping"
) -> Extremes:
    """Insist that H_δ is positive definite, so that influence means something.

    Args:
        operator: v ↦ H_δ v on one lane (d, k, 1).
        like: a tensor of that shape, precision and device.
        damping: the δ in it.
        key: the config key of δ.

    Returns:
        The ends of its spectrum.

    Raises:
        UserError: it isn't; names the smallest eigenvalue and a δ that suffices.
    """
    found = extremes(operator, like, key=key)
    lowest = found.smallest - found.error
    if lowest > 0:
        return found
    enough = damping - lowest + HEADROOM * max(abs(found.largest), abs(found.smallest))
    raise UserError(
        f"the damped Hessian is not positive definite: at damping {damping:g} its smallest eigenvalue is "
        f"{found.smallest:.3g} (its largest {found.largest:.3g}), so that influence is undefined",
        where=key,
        remedy=f"raise {key} to {_rounded_up(enough):g} or more, or train closer to a minimum",
    )


def _finite(hv: Tensor) -> Tensor:
    if not bool(torch.isfinite(hv).all()):
        raise FloatingPointError("a Hessian product is not finite")
    return hv


def _rounded_up(value: float) -> float:
    """A positive number rounded up to two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
