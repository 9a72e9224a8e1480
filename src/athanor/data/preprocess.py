"""Preprocessing as a part of the model: its statistics are fitted on the train split and saved in the checkpoint.

Each module takes raw uint8 images [N, C, H, W] and gives float32 of the same shape, so that a classifier needs nothing
but pixels. Fitting reads the images in parts, because they may be larger than the memory.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from athanor.base.errors import UserError, require
from athanor.base.lightning_internals import StaysFloat32

CHUNK = 2**24  # bytes of images that fitting reads at a time


class Preprocess(StaysFloat32):
    """Base class, which scales pixels to [0, 1]. It computes in float32 whatever the precision of the training: in
    bfloat16 a mean of 123.456 would be 123.5.

    Preprocessing of your own is a subclass in src/athanor/data/<name>.py, and a configs/data/preprocess/<name>.yaml
    with the values of its arguments. `fit` is called once, before training, on the CPU; `chunks` below reads images
    that are larger than the memory. What it finds out goes into buffers, which the checkpoint keeps; their shapes must
    be those that __init__ gave them. `forward` is called with uint8 images [N, C, H, W] on the device of the run, and
    returns float32 of the same shape. tests/test_extend.py adds one.

    input_shape: (C, H, W), handed by name, which gives the shapes of the buffers before they are fitted or loaded.
    """

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__()

    def fit(self, images: Tensor, index: Tensor) -> None:
        """Set the buffers from the training images `images[index]` alone."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float() / 255


class Standardize(Preprocess):
    """Subtract each channel's mean and divide by its standard deviation (usual for CIFAR and ImageNet)."""

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__(input_shape)
        self.register_buffer("mean", torch.zeros(input_shape[0], 1, 1))  # in pixel values, 0 to 255
        self.register_buffer("std", torch.ones(input_shape[0], 1, 1))

    def fit(self, images: Tensor, index: Tensor) -> None:
        # a histogram of the 256 pixel values gives the exact mean and variance in one pass
        counts = torch.zeros(len(self.mean), 256, dtype=torch.int64)
        for chunk in chunks(images, index):
            for channel, pixels in enumerate(chunk.transpose(0, 1).flatten(1)):
                counts[channel] += torch.bincount(pixels, minlength=256)
        value, share = torch.arange(256, dtype=torch.float64), counts / counts.sum(1, keepdim=True).double()
        mean = share @ value
        std = (share @ value**2 - mean**2).clamp_min(0).sqrt()
        self.mean.copy_(mean[:, None, None])
        self.std.copy_(torch.where(std > 0, std, 1.0)[:, None, None])  # a constant channel becomes 0 instead of nan

    def forward(self, images: Tensor) -> Tensor:
        # bytes to floats first: a third faster than a subtraction from bytes
        return images.float().sub_(self.mean).mul_(self.std.reciprocal())


class MeanImage(Preprocess):
    """Scale pixels to [0, 1] and subtract the mean image, pixel by pixel (as AlexNet does)."""

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__(input_shape)
        self.register_buffer("mean", torch.zeros(input_shape))  # in pixel values, 0 to 255

    def fit(self, images: Tensor, index: Tensor) -> None:
        total = sum(chunk.sum(0, dtype=torch.float64) for chunk in chunks(images, index))
        self.mean.copy_(total / len(index))

    def forward(self, images: Tensor) -> Tensor:
        return torch.sub(images, self.mean).div_(255)


class Symmetric(Preprocess):
    """Scale pixels to [-1, 1]; nothing is fitted."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.div(images, 127.5).sub_(1)


class Whiten(Preprocess):
    """Base class of PCA and ZCA: subtracts a mean image and multiplies by a symmetric matrix [D, D], D = C*H*W.

    The pixels are scaled to [0, 1] first. Fitting computes the eigenvectors of the D x D covariance, which takes a
    second for D = 784 and half a minute for D = 3072.
    """

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__(input_shape)
        size = input_shape[0] * input_shape[1] * input_shape[2]
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("matrix", torch.eye(size))

    def fit(self, images: Tensor, index: Tensor) -> None:
        size = len(self.mean)
        total, moment = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
        for chunk in chunks(images, index):
            pixels = chunk.flatten(1).double() / 255
            total += pixels.sum(0)
            moment += pixels.T @ pixels
        mean = total / len(index)
        variances, vectors = torch.linalg.eigh(moment / len(index) - mean.outer(mean))
        variances = variances.clamp_min(0)
        self.mean.copy_(mean)
        self.matrix.copy_(vectors @ torch.diag(self.gains(variances)) @ vectors.T)

    def gains(self, variances: Tensor) -> Tensor:
        """The factor of each principal direction, float64 [D]; the variances are in ascending order."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            pixels = images.flatten(1).float() / 255
            return ((pixels - self.mean) @ self.matrix).view(images.shape)


class PCA(Whiten):
    """Keep the principal components that together have the fraction `variance`, in (0, 1], of the variance.

    The others are set to 0, and the result is projected back to pixels, so it is still an image.
    """

    def __init__(self, input_shape: tuple[int, int, int], variance: float) -> None:
        super().__init__(input_shape)
        if not 0 < variance <= 1:
            raise UserError(f"data.preprocess.variance={variance} is not in (0, 1]; 0.99 keeps 99 % of the variance")
        self.variance = variance

    def gains(self, variances: Tensor) -> Tensor:
        dropped = variances.cumsum(0) <= (1 - self.variance) * variances.sum()
        return (~dropped).double()


class ZCA(Whiten):
    """Whitening that changes the pixels least: U diag(1 / sqrt(variance + eps)) U^T (Bell & Sejnowski 1997)."""

    def __init__(self, input_shape: tuple[int, int, int], eps: float) -> None:
        super().__init__(input_shape)
        require(eps > 0, f"data.preprocess.eps={eps} must be positive, or directions without variance become noise")
        self.eps = eps

    def gains(self, variances: Tensor) -> Tensor:
        return (variances + self.eps).rsqrt()


def chunks(images: Tensor, index: Tensor) -> Iterator[Tensor]:
    """images[index] in parts of at most CHUNK bytes, or of one image."""
    for part in index.split(max(1, CHUNK // images[0].numel())):
        yield images[part]
