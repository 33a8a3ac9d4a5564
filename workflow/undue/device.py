"""Where the arithmetic happens."""

from __future__ import annotations

import torch

from undue.errors import UserError


def choose_device(device: str, *, key: str) -> torch.device:
    """The device that the config asks for: "cpu", "cuda", or "auto" for CUDA if there is any.

    Args:
        device: the setting.
        key: its name in the config, for the error.

    Raises:
        UserError: CUDA is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError(
            "CUDA is asked for, but this machine or this build of torch has none",
            where=key,
            remedy="set it to auto or cpu, or install a CUDA build of torch (see README.md)",
        )
    return torch.device("cuda" if available and device != "cpu" else "cpu")
