"""A vision transformer (Dosovitskiy et al. 2020), its class read from the mean of all tokens."""

import torch
from torch import Tensor, nn


class ViT(nn.Module):
    """[B, C, H, W] -> [B, num_classes]."""

    def __init__(
        self, *, input_shape: tuple[int, int, int], num_classes: int, patch: int, width: int, depth: int, heads: int
    ):
        super().__init__()
        channels, height, columns = input_shape
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, (height // patch) * (columns // patch), width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.head(self.blocks(tokens).mean(1))
