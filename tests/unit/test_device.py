"""Choosing where the arithmetic happens."""

from __future__ import annotations

import pytest
import torch

from undue.device import choose_device
from undue.errors import UserError


@pytest.mark.parametrize("available", [True, False])
def test_device(available: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert choose_device("auto", key="attack.device").type == ("cuda" if available else "cpu")
    assert choose_device("cpu", key="attack.device").type == "cpu"
    if available:
        assert choose_device("cuda", key="attack.device").type == "cuda"
    else:
        with pytest.raises(UserError, match="CUDA is asked for") as caught:
            choose_device("cuda", key="attack.device")
        assert caught.value.where == "attack.device"
