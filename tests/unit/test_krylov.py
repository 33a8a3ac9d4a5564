"""One Lanczos recursion against dense solves and eigenvalues."""

from __future__ import annotations

import pytest
import torch
from problems import normal
from torch import Tensor

from undue.calculus.krylov import Krylov


def symmetric(values: Tensor) -> Tensor:
    turn: Tensor = torch.linalg.qr(normal(len(values), len(values), seed=3)).Q
    return turn @ torch.diag(values) @ turn.T


def space(matrix: Tensor, steps: int) -> tuple[Krylov, Tensor]:
    b = normal(len(matrix), 1, 1, seed=1)
    return Krylov.of(lambda v: (matrix @ v.reshape(-1)).view_as(v), b, steps), b


def test_a_full_space_has_exact_solves_and_ends() -> None:
    matrix = symmetric(torch.linspace(-1, 30, 20).double())
    found, b = space(matrix, 50)
    assert found.products == 20
    for damping in (1.5, 10.0):
        solution = found.solve(damping, tolerance=1e-8)
        expected = torch.linalg.solve(matrix + damping * torch.eye(20).double(), b[:, :, 0])
        torch.testing.assert_close(solution.x[..., 0], expected)
        assert bool(solution.converged.all())
    ends = found.ends()
    assert (ends.smallest, ends.largest) == pytest.approx((-1, 30))
    assert ends.error < 1e-8


def test_a_small_space_says_how_wrong_it_is() -> None:
    matrix = symmetric(torch.linspace(-1, 30, 200).double() ** 3 / 900)
    found, b = space(matrix, 15)
    assert found.products == 15
    solution = found.solve(2.0, tolerance=1e-8)
    rest = b[:, 0] - (matrix + 2 * torch.eye(200).double()) @ solution.x[:, 0]
    assert float(solution.residual) == pytest.approx(float(rest.norm() / b.norm()))
    assert not bool(solution.converged.any())
    ends, values = found.ends(), torch.linalg.eigvalsh(matrix)
    assert ends.error > 0
    for end in (ends.smallest, ends.largest):
        assert float((values - end).abs().min()) <= ends.error


def test_a_right_hand_side_of_few_directions_ends_early() -> None:
    matrix = torch.diag(torch.arange(1.0, 11.0).double())
    b = torch.zeros(10, 1, 1).double()
    b[[2, 5]] = 1.0
    found = Krylov.of(lambda v: (matrix @ v.reshape(-1)).view_as(v), b, 10)
    assert found.products == 2
    expected = torch.zeros(10).double()
    expected[2], expected[5] = 1 / 4, 1 / 7
    torch.testing.assert_close(found.solve(1.0, tolerance=1e-9).x[:, 0, 0], expected)


@pytest.mark.parametrize("b", [torch.zeros(3, 1, 1), torch.ones(3, 1, 2)])
def test_one_lane_that_is_not_zero(b: Tensor) -> None:
    with pytest.raises(ValueError, match="one lane"):
        Krylov.of(lambda v: v, b, 3)
