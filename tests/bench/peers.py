"""The same influence scores by this project and by other libraries: seconds, memory, and how right they are.

Asked for is the influence of every training sample on one functional, the summed loss of the test set, of
one softmax head (see `head`). Every library gets the same tensors in memory and is used in the fastest way
that its interface offers: whole batches handed over without copying, and a set of test samples as one sample
where that saves it a solve for each. Signs and factors are turned into ours: I = −gᵀ H⁻¹ ∇ℓ, H the mean's
Hessian and λ.
"""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from bench import head
from bench.engine import peak_rss
from bench.head import Head
from undue.calculus.functional import summed_loss
from undue.calculus.influence import Solve, influence
from undue.calculus.linear import LinearPoint
from undue.calculus.objective import Objective
from undue.calculus.solvers import conjugate_gradient
from undue.calculus.subsampled import SAMPLES, solve_once
from undue.errors import UserError

# Relative residual of our solve and, where it can be asked for, of a peer's.
TOLERANCE = 1e-6
# A method that takes longer or more is recorded as failed.
TIME_LIMIT_S = 600
MEMORY_LIMIT_GIB = 14
# Samples whose gradients a peer holds at once, where it holds them.
BATCH = 1_000
# The same for captum's approximation: it takes them up once for each eigenvector, best from the cache.
ARNOLDI_BATCH = 25

# pyDVL's dense solver holds all p second derivatives of each output of a batch.
PYDVL_DENSE_BATCH = 500

# Where the libraries keep what is used of them.
_ARNOLDI = "captum.influence._core.arnoldi_influence_function"
_CAPTUM, _PYDVL, _DATTRI = "captum.influence", "pydvl.influence.torch", "dattri.algorithm.influence_function"


@dataclass(frozen=True)
class Scores:
    """What a method answers.

    Attributes:
        values: I of every training sample (n,).
        details: what else is worth a record.
    """

    values: Tensor
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """One way to the scores.

    Attributes:
        package: the library on the registry; None for this project.
        module: what to import before the clock starts.
        how: class and options, for the table.
        run: the way itself.
    """

    package: str | None
    module: str
    how: str
    run: Callable[[Head], Scores]


# Ours -------------------------------------------------------------------------------------------------------


def undue_refined(given: Head, *, tolerance: float) -> Scores:
    """Conjugate gradients in float32, preconditioned by some samples' Hessian; float64 refines the answer."""
    data = given.to(torch.float64)
    objective, theta = Objective(data.train, given.l2), given.theta.double()
    solve = partial(solve_once, objective, theta, tolerance=tolerance)
    return _scores(data, data.train.at(theta), solve)


def undue_cg(given: Head, *, tolerance: float) -> Scores:
    """Conjugate gradients in float64 throughout."""
    data = given.to(torch.float64)
    point = data.train.at(given.theta.double())
    hessian, project = Objective(data.train, given.l2).hessian(point), data.train.project
    solve = partial(conjugate_gradient, hessian, project=project, tolerance=tolerance)
    return _scores(data, point, solve)


def _scores(data: Head, point: LinearPoint, solve: Solve) -> Scores:
    gradient = summed_loss(data.test).gradient(point.theta)
    values, solution = influence(point, gradient, solve)
    return Scores(
        values[:, 0], {"residual": float(solution.residual), "iterations": int(solution.iterations)}
    )


# What peers are given ---------------------------------------------------------------------------------------


def model_of(given: Head) -> nn.Linear:
    """The head as a torch module, in the precision of its data."""
    model = nn.Linear(*given.train.shape, bias=False)
    model.weight = nn.Parameter(given.theta[..., 0].T.to(given.train.x).contiguous())
    return model


def parts(x: Tensor, y: Tensor, size: int) -> DataLoader[Any]:
    """Batches that are handed over as they are: no rows gathered one by one, nothing copied."""
    batches: Any = list(zip(torch.split(x, size), torch.split(y, size), strict=True))
    return DataLoader(batches, batch_size=None)


class Rows(Dataset[Any]):
    """Samples that are gathered by the batch, for loaders that must know samples."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._x, self._y = x, y

    def __len__(self) -> int:
        return len(self._y)

    def __getitems__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        return self._x[index], self._y[index]


def as_it_is(batch: Any) -> Any:
    """A collation that leaves a batch alone."""
    return batch


def mean_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy over everything there is: of a batch, or of a set of samples that stands for one."""
    return cross_entropy(outputs.flatten(0, -2), y.flatten())


# captum -----------------------------------------------------------------------------------------------------


def captum_arnoldi(given: Head, *, dimension: int) -> Scores:
    """`ArnoldiInfluenceFunction`: the inverse on the leading eigenvectors only, whatever their number."""
    # Its package leaves it out of what it offers.
    return _captum(
        given,
        importlib.import_module(_ARNOLDI).ArnoldiInfluenceFunction,
        ARNOLDI_BATCH,
        {"projection_dim": dimension, "arnoldi_dim": dimension, "arnoldi_tol": 1e-4},
    )


def captum_naive(given: Head) -> Scores:
    """`NaiveInfluenceFunction` with all eigenvectors: its exact one."""
    kind = importlib.import_module(_CAPTUM).NaiveInfluenceFunction
    return _captum(given, kind, BATCH, {"projection_dim": None})


def _captum(given: Head, kind: Callable[..., Any], batch: int, options: Mapping[str, Any]) -> Scores:
    # It sums losses where we take the mean, so that its H is n times ours.
    n = given.train.samples
    function = kind(
        model_of(given),
        parts(given.train.x, given.train.y, batch),
        checkpoint="",
        checkpoints_load_func=lambda model, checkpoint: 1.0,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        hessian_dataset=parts(given.train.x, given.train.y, n),
        sample_wise_grads_per_batch=True,
        hessian_reg=n * given.l2,
        hessian_inverse_tol=0.0,
        **options,
    )
    total = function.compute_intermediate_quantities(parts(given.test.x, given.test.y, BATCH), aggregate=True)
    each = function.compute_intermediate_quantities(function.train_dataloader)
    return Scores(-n * (each @ total[0]))


# pyDVL ------------------------------------------------------------------------------------------------------


def pydvl_cg(given: Head) -> Scores:
    """`CgInfluence`, its block solver: only there does `rtol` count, and what it stops at is its square."""
    torch.manual_seed(0)
    return _pydvl(
        given,
        "CgInfluence",
        given.train.samples,
        {"solve_simultaneously": True, "rtol": TOLERANCE**0.5, "atol": 0.0, "maxiter": 1_000},
    )


def pydvl_direct(given: Head) -> Scores:
    """`DirectInfluence`: its exact one, the Hessian added up from small batches, which its memory allows."""
    return _pydvl(given, "DirectInfluence", PYDVL_DENSE_BATCH, {})


def _pydvl(given: Head, kind: str, batch: int, options: Mapping[str, Any]) -> Scores:
    function = getattr(importlib.import_module(_PYDVL), kind)(
        model_of(given), mean_loss, regularization=given.l2, **options
    ).fit(parts(given.train.x, given.train.y, batch))
    # The test set as one sample: one right-hand side, the gradient of the mean.
    factors = function.influence_factors(given.test.x[None], given.test.y[None])
    values = [
        function.influences_from_factors(factors, x, y)[0]
        for x, y in parts(given.train.x, given.train.y, BATCH)
    ]
    return Scores(-given.test.samples * torch.cat(values).detach())


# dattri -----------------------------------------------------------------------------------------------------


def dattri_cg(given: Head, *, steps: int) -> Scores:
    """`IFAttributorCG`: it takes a fixed number of steps and ignores its tolerance."""
    # More than there are parameters would divide by residuals of zero.
    return _dattri(given, "IFAttributorCG", {"max_iter": min(steps, given.theta.numel()), "mode": "rev-fwd"})


def dattri_explicit(given: Head) -> Scores:
    """`IFAttributorExplicit`: its exact one."""
    return _dattri(given, "IFAttributorExplicit", {})


def _dattri(given: Head, kind: str, options: Mapping[str, Any]) -> Scores:
    model, n = model_of(given), given.train.samples

    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return mean_loss(torch.func.functional_call(model, params, (data[0],)), data[1])

    def target(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return data[1].numel() * loss(params, data)

    task = importlib.import_module("dattri.task").AttributionTask(
        loss_func=loss, target_func=target, model=model, checkpoints=model.state_dict()
    )
    attributor = getattr(importlib.import_module(_DATTRI), kind)(
        task=task, regularization=given.l2, **options
    )
    # Solves of single batches are added up: one batch for the right answer. It solves anew for every batch of
    # training samples: again one batch, whose gradients it holds all at once.
    attributor.cache(parts(given.train.x, given.train.y, n))
    found = attributor.attribute(
        DataLoader(Rows(given.train.x, given.train.y), batch_size=n, collate_fn=as_it_is),
        DataLoader(Rows(given.test.x[None], given.test.y[None]), batch_size=1, collate_fn=as_it_is),
    )
    return Scores(-found[:, 0].detach())


# All methods ------------------------------------------------------------------------------------------------

# As many as ours takes to a relative residual of 1e-6; in float32 nothing is gained by more.
DATTRI_STEPS = 50
# Eigenvectors that captum's approximation keeps; twice as many take twice as long, or longer.
ARNOLDI_DIMENSION = 200

# Those of which a dense Hessian is made come last: they take longest.
METHODS: Mapping[str, Method] = {
    "undue": Method(
        None,
        "undue",
        f"CG in float32, preconditioned by {SAMPLES:,} samples, refined to {TOLERANCE:.0e}",
        partial(undue_refined, tolerance=TOLERANCE),
    ),
    "undue, float64": Method(
        None,
        "undue",
        f"CG in float64 to a residual of {TOLERANCE:.0e}",
        partial(undue_cg, tolerance=TOLERANCE),
    ),
    "dattri": Method(
        "dattri", _DATTRI, f"IFAttributorCG, {DATTRI_STEPS} steps", partial(dattri_cg, steps=DATTRI_STEPS)
    ),
    "pydvl": Method("pydvl", _PYDVL, f"CgInfluence, block CG to {TOLERANCE:.0e}", pydvl_cg),
    "captum": Method(
        "captum",
        _ARNOLDI,
        f"ArnoldiInfluenceFunction, {ARNOLDI_DIMENSION} eigenvectors",
        partial(captum_arnoldi, dimension=ARNOLDI_DIMENSION),
    ),
    "dattri, exact": Method("dattri", _DATTRI, "IFAttributorExplicit", dattri_explicit),
    "pydvl, exact": Method("pydvl", _PYDVL, f"DirectInfluence, batches of {PYDVL_DENSE_BATCH}", pydvl_direct),
    "captum, exact": Method("captum", _CAPTUM, "NaiveInfluenceFunction, all eigenvectors", captum_naive),
}
# The one that the others' times are multiples of.
OURS = "undue"


# Measuring --------------------------------------------------------------------------------------------------


def agreement(found: Tensor, exact: Tensor) -> dict[str, float]:
    """How far scores (n,) are from the dense float64 ones.

    Returns:
        error_max: max |I − I*| / max |I*|; error_norm: ‖I − I*‖ / ‖I*‖; both correlations.
    """
    found, exact = found.double(), exact.double()
    if not bool(torch.isfinite(found).all()):
        raise ArithmeticError("some of the scores are not finite")
    difference = found - exact
    return {
        "error_max": float(difference.abs().max() / exact.abs().max()),
        "error_norm": float(difference.norm() / exact.norm()),
        "pearson": float(scipy.stats.pearsonr(found.numpy(), exact.numpy()).statistic),
        "spearman": float(scipy.stats.spearmanr(found.numpy(), exact.numpy()).statistic),
    }


def measure(folder: str, *, method: str, packages: str | None, memory_limit_gib: float) -> dict[str, Any]:
    """Time, memory and agreement of one method on the head that `head.write` left in a folder.

    Args:
        folder: the head's.
        method: a key of METHODS.
        packages: where peers are installed.
        memory_limit_gib: a method that allocates more has failed.

    Returns:
        What is recorded; of a method that fails, its error in place of numbers.
    """
    if packages is not None:
        # Last: what the project has itself is the project's.
        sys.path.append(packages)
    given, exact = head.read(Path(folder))
    limit = int(memory_limit_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return evaluate(METHODS[method], given, exact)


def evaluate(method: Method, given: Head, exact: Tensor) -> dict[str, Any]:
    """Run a method in this process; whatever it raises is recorded, not raised."""
    about: dict[str, Any] = {"how": method.how}
    try:
        about["version"] = None if method.package is None else version(method.package)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(method.module)
            begun = time.perf_counter()
            found = method.run(given)
            seconds = time.perf_counter() - begun
        peak = peak_rss()
        return {
            **about,
            "seconds": seconds,
            "peak_rss_bytes": peak,
            **agreement(found.values, exact),
            **found.details,
        }
    except Exception as error:
        return {**about, "error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}


def attempt(run: Callable[..., dict[str, Any]], method: str, **arguments: Any) -> dict[str, Any]:
    """A method's measurement in a process of its own, or that it was killed or took too long."""
    about = {"how": METHODS[method].how}
    try:
        return run("peer", method=method, **arguments)
    except subprocess.TimeoutExpired as error:
        return {**about, "error": f"no answer within {error.timeout:,.0f} s"}
    except subprocess.CalledProcessError as error:
        return {**about, "error": f"its process ended with code {error.returncode}"}


# Installing -------------------------------------------------------------------------------------------------


def pinned(requirements: Path) -> list[str]:
    """The requirements of a file, without its comments."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def install(requirements: Path, folder: Path) -> Path:
    """Install the pinned packages into a folder, without dependencies, unless it has them.

    Without dependencies, because pip would bring another torch, several GB of it, and another numpy.

    Raises:
        UserError: they can't be installed.
    """
    done, wanted = folder / "installed.txt", "\n".join(pinned(requirements))
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return folder
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
    command += ["--no-deps", "--target", str(folder), "--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise UserError(
            f"pip can't install it: {result.stderr.strip()[-500:]}",
            where=str(requirements),
            remedy="run it where there is a package registry",
        )
    done.write_text(wanted, encoding="utf-8")
    return folder
