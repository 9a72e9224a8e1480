"""The network of the CIFAR-10 speed records: a whitening first layer, few wide stages, convolutions that start as
the identity.

Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498), sections 3.1 to 3.3. The whitening
layer is from Page 2019, "How to Train Your ResNet 8".
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.base.errors import UserError, require
from athanor.models import layers

PATCH = 2  # side of the whitened patches, in pixels
EPS = 5e-4  # added to the variances of the patches, or directions of almost no variance would become noise


class SpeedNet(nn.Module):
    """Whitening conv2x2 -> GELU -> stages -> global max pool -> fc: [B, C, H, W] -> [B, num_classes].

    A stage is conv3x3 -> maxpool2 -> norm -> GELU and then, at the halved size, convs_per_stage - 1 times
    conv3x3 -> norm -> GELU; with `residual` the input of this second part is added to its result. The weights of the
    first layer are set from the training images (`init_from_data`) and stay fixed; only its bias is trained.

    norm_momentum: weight of the newest batch in the running statistics of batch norm, in (0, 1].
    Raises UserError where the image is too small to be halved by every stage.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        widths: list[int],
        convs_per_stage: Literal[2, 3],
        residual: bool,
        norm_momentum: float,
    ):
        super().__init__()
        require(widths, "model.widths=[] leaves no stage; use e.g. model.widths=[64,256,256]")
        layers.check_widths("model.widths", widths)
        layers.require_pictures("speednet", input_shape)
        channels, smallest = input_shape[0], 2 ** len(widths) + 1
        if min(input_shape[1:]) < smallest:
            raise UserError(
                f"model.widths={list(widths)} halves the image {len(widths)} times, which needs {smallest} pixels or "
                f"more, not {input_shape[2]}x{input_shape[1]}; use fewer widths"
            )
        patch_size = channels * PATCH**2
        self.whiten = nn.Conv2d(channels, 2 * patch_size, PATCH)
        self.whiten.weight.requires_grad = False
        self.activation = nn.GELU()
        self.stages = nn.Sequential()
        for in_channels, width in zip([2 * patch_size, *widths], widths, strict=False):
            self.stages.append(SpeedNetStage(in_channels, width, convs_per_stage, residual, norm_momentum))
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        nn.init.normal_(self.head.weight, std=1 / widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.activation(self.whiten(x)))
        return self.head(F.adaptive_max_pool2d(x, 1).flatten(1))

    @torch.no_grad()
    def init_from_data(self, pixels: Tensor) -> None:
        """Set the first layer's weights so that its outputs are uncorrelated and have variance 1.

        The filters are the eigenvectors of the patches' covariance, each divided by its standard deviation, and the
        negatives of these.
        pixels: preprocessed training images [N, C, H, W]; a few thousand are enough.
        """
        moments, count = 0, 0
        # the patches of all images at once could fill the memory: 64 images of 64x64 pixels, and fewer of larger ones
        for images in pixels.split(min(64, 2**18 // pixels[0, 0].numel() + 1)):
            patches = F.unfold(images, PATCH).transpose(1, 2).flatten(0, 1).double()  # [images * positions, C * 4]
            moments, count = moments + patches.T @ patches, count + len(patches)
        variances, vectors = torch.linalg.eigh(moments / count)
        filters = (vectors / (variances + EPS).sqrt()).T.reshape(-1, *self.whiten.weight.shape[1:])
        self.whiten.weight.copy_(torch.cat([filters, -filters]))


class SpeedNetStage(nn.Module):
    """[B, in_channels, H, W] -> [B, width, H/2, W/2]; SpeedNet says of what it is made."""

    def __init__(self, in_channels: int, width: int, num_convs: int, residual: bool, norm_momentum: float):
        super().__init__()
        self.residual = residual
        self.convs = nn.ModuleList(identity_conv(in_channels if i == 0 else width, width) for i in range(num_convs))
        self.norms = nn.ModuleList(fixed_scale_norm(width, norm_momentum) for _ in range(num_convs))
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = start = self.activation(self.norms[0](F.max_pool2d(self.convs[0](x), 2)))
        for i, (conv, norm) in enumerate(zip(self.convs[1:], self.norms[1:], strict=True), 2):
            x = norm(conv(x))
            x = self.activation(x + start if self.residual and i == len(self.convs) else x)
        return x


def identity_conv(in_channels: int, width: int) -> nn.Conv2d:
    """A 3x3 convolution whose first `in_channels` outputs start as copies of its inputs; torch initialises the rest."""
    conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:in_channels])
    return conv


def fixed_scale_norm(width: int, momentum: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(width, eps=1e-12, momentum=momentum)
    norm.weight.requires_grad = False  # the layer that follows can learn the scale as well
    return norm
