"""Where a result comes from: versions, hardware and the state of the code."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    import torch

    packages = ("torch", "torchvision", "lightning", "hydra-core", "athanor")
    return {
        "threads": torch.get_num_threads(),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "git": git_state(),
    }


def git_state() -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": git("status", "--porcelain", "-uno").splitlines()}
    except (OSError, subprocess.SubprocessError):
        return None  # not a checkout, or no git


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
