"""A network for a few numbers, whose layers are gated (Dauphin et al. 2016)."""

from torch import Tensor, nn


class Gated(nn.Module):
    """[B, D] -> [B, num_classes]."""

    def __init__(self, *, input_shape: tuple[int], num_classes: int, width: int, dropout: float):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(*input_shape, 2 * width), nn.GLU(), nn.Dropout(dropout))
        self.middle = nn.Sequential(nn.Linear(width, 2 * width), nn.GLU(), nn.Dropout(dropout))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.middle(x))
