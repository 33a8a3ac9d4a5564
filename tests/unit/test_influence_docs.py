"""The example in docs/influence.md runs as it stands, and computes what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from networks import hessian_of, make_net_risk, minimise

PAGE = Path(__file__).resolve().parents[2] / "docs" / "influence.md"
L2, DAMPING = 0.01, 0.01


def test_the_example_runs_and_computes_influence() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    pool = make_net_risk(n=30)
    risk, test = pool.rows(torch.arange(20)), pool.rows(torch.arange(20, 30))
    each = torch.full((20,), 1 / 20, dtype=torch.float64)
    theta = minimise(risk, risk.theta(), L2, each)
    risk.module.load_state_dict(risk.parameters(theta[:, 0, 0]), strict=False)
    names: dict[str, Any] = {
        "net": risk.module, "x": risk.x, "y": risk.y, "x_test": test.x, "y_test": test.y
    }  # fmt: skip
    exec(block, names)
    hessian = hessian_of(risk, theta, L2, each) + DAMPING * torch.eye(theta.numel()).double()
    gradient = test.at(theta).grad(torch.ones(10).double())[:, :, 0]
    expected = -risk.at(theta).grad_dots(torch.linalg.solve(hessian, gradient)[..., None])
    torch.testing.assert_close(names["scores"], expected, rtol=1e-4, atol=1e-6)
