"""Tests that need an NVIDIA GPU: pytest -m gpu. A file of them is one worker's, and all workers share the GPU."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU; with one, type pytest -m gpu")
