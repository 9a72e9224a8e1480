"""What arithmetic is fast on this machine and accurate enough."""

import logging
import platform

import torch
from torch import nn

log = logging.getLogger(__name__)


def automatic(device_type: str, network: nn.Module) -> str:
    """`trainer.precision=auto`: bf16-mixed where the hardware multiplies bfloat16, else 32-true. Says which and why."""
    chosen, reason = "32-true", f"bfloat16 is no faster on {device_type}"
    if device_type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        chosen, reason = "bf16-mixed", f"{torch.cuda.get_device_name()} has it"
    elif device_type == "cpu" and not cpu_has_bfloat16():
        reason = "this processor emulates bfloat16"
    elif device_type == "cpu" and not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        reason = "a network without convolutions gains nothing from bfloat16 on a processor"
    elif device_type == "cpu":
        chosen, reason = "bf16-mixed", "this processor multiplies bfloat16, and the network has convolutions"
    log.info("trainer.precision=auto is %s: %s", chosen, reason)
    return chosen


def cpu_has_bfloat16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def set_matmul_precision(asked: str, device_type: str) -> None:
    """torch.set_float32_matmul_precision, where `auto` is TensorFloat-32 on a GPU and never less than that.

    On x86 processors without AMX `medium` keeps float32's accuracy (relative error 5e-7) and only chooses oneDNN
    instead of MKL, which is up to twice as fast on AMD; with AMX it would be bfloat16.
    """
    if asked == "auto":
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        asked = "medium" if device_type == "cpu" and x86 and not torch.cpu._is_amx_tile_supported() else "high"
    torch.set_float32_matmul_precision(asked)
