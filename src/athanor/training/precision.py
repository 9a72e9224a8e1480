"""Chooses the arithmetic that is fastest on this machine and accurate enough."""

import logging
import platform

import torch
from torch import nn

from athanor.base.lightning_internals import cpu_has_amx, cpu_multiplies_bfloat16

log = logging.getLogger(__name__)


def automatic(device_type: str, network: nn.Module) -> str:
    """`trainer.precision=auto`: bf16-mixed where bfloat16 is faster than float32 for this network, else 32-true.

    device_type: cuda, mps or cpu. Logs what was chosen, and why.
    """
    precision, reason = "32-true", f"bfloat16 is no faster on {device_type}"
    if device_type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        precision, reason = "bf16-mixed", f"{torch.cuda.get_device_name()} has it"
    elif device_type == "cpu" and not cpu_multiplies_bfloat16():
        reason = "this processor emulates bfloat16"
    elif device_type == "cpu" and not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        reason = "a network without convolutions gains nothing from bfloat16 on a processor"
    elif device_type == "cpu":
        precision, reason = "bf16-mixed", "this processor multiplies bfloat16, and the network has convolutions"
    log.info("trainer.precision=auto is %s: %s", precision, reason)
    return precision


def set_matmul_precision(setting: str, device_type: str) -> None:
    """torch.set_float32_matmul_precision(setting); `auto` chooses TensorFloat-32 on a GPU, and nothing less accurate.

    On x86 processors without AMX `medium` keeps the accuracy of float32 (relative error 5e-7) and only chooses oneDNN
    instead of MKL, which is up to twice as fast on AMD; with AMX it would mean bfloat16.
    """
    if setting == "auto":
        is_x86 = platform.machine().lower() in ("x86_64", "amd64")
        setting = "medium" if device_type == "cpu" and is_x86 and not cpu_has_amx() else "high"
    torch.set_float32_matmul_precision(setting)
