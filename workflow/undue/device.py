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


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has matrix units for bfloat16, several times as fast as float32 products."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def takes_bfloat16(products: str, device: torch.device) -> bool:
    """Whether products are to be taken in bfloat16.

    Args:
        products: the setting, "float32", "bfloat16" or "auto" for whichever is faster.
        device: where they are taken.
    """
    return products == "bfloat16" or (products == "auto" and multiplies_bfloat16(device))
