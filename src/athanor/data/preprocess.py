"""Preprocessing as a part of the model: its statistics are fitted on the train split and saved in the checkpoint.

Each module takes raw inputs [N, ...], such as uint8 images [N, C, H, W], and gives float32 of the same shape, so that a
classifier needs nothing but pixels. Integers of 8 and 16 bits are pixels; floats are numbers with a scale of their own,
which nothing divides by 255. int64 inputs are indices of tokens, and go to the network as they are. Fitting reads the
inputs in parts, because they may be larger than the memory.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from athanor.base.errors import UserError, require
from athanor.base.lightning_internals import StaysFloat32
from athanor.data.sources.checks import told

CHUNK = 2**24  # bytes of images that fitting reads at a time
# of red, green and blue in [0, 1], as torchvision's and most of timm's weights expect them
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def scaled(images: Tensor) -> Tensor:
    """Pixels as float32 in [0, 1], of int16 in [-1, 1]; floats as they are."""
    return images.float() / scale(images)


def scale(images: Tensor) -> float:
    return 1.0 if images.is_floating_point() else float(torch.iinfo(images.dtype).max)


def refuse_indices(images: Tensor, option: str) -> None:
    if images.dtype == torch.int64:
        raise UserError(
            f"data.preprocess={option}: the inputs are int64, indices of which nothing can be computed; "
            "type data.preprocess=none"
        )


class Preprocess(StaysFloat32):
    """Base class, which scales pixels to [0, 1]. It computes in float32 whatever the precision of the training: in
    bfloat16 a mean of 123.456 would be 123.5.

    Preprocessing of your own is a subclass in src/athanor/data/<name>.py, and a configs/data/preprocess/<name>.yaml
    with the values of its arguments. `fit` is called once, before training, on the CPU; `chunks` below reads images
    that are larger than the memory. What it finds out goes into buffers, which the checkpoint keeps; their shapes must
    be those that __init__ gave them. `forward` is called with raw inputs [N, ...], such as uint8 images [N, C, H, W],
    on the device of the run, and returns float32 of the same shape. tests/test_extend.py adds one.

    input_shape: such as (C, H, W), handed by name, which gives the shapes of the buffers before they are fitted.
    """

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()

    def fit(self, images: Tensor, index: Tensor) -> None:
        """Set the buffers from the training images `images[index]` alone."""

    def forward(self, images: Tensor) -> Tensor:
        return images if images.dtype == torch.int64 else scaled(images)


class Standardize(Preprocess):
    """Subtract each channel's mean and divide by its standard deviation (usual for CIFAR and ImageNet).

    The channels are the first dimension of an input: those of a picture, and each feature of a vector.
    """

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__(input_shape)
        channels = (input_shape[0], *(1 for _ in input_shape[1:]))
        self.register_buffer("mean", torch.zeros(channels))  # in pixel values, 0 to 255
        self.register_buffer("std", torch.ones(channels))

    def fit(self, images: Tensor, index: Tensor) -> None:
        if images.dtype == torch.int64:
            return
        mean, std = bytes_moments(images, index) if images.dtype == torch.uint8 else moments(images, index)
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(std.view_as(self.std))

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype == torch.int64:
            return images
        # to floats first: a third faster than a subtraction from bytes
        return images.to(torch.float32, copy=True).sub_(self.mean).mul_(self.std.reciprocal())


def bytes_moments(images: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images[index], float64 [C]; 1 for a constant channel, which
    then becomes 0 instead of nan.
    """
    # a histogram of the 256 pixel values gives the exact mean and variance in one pass
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in chunks(images, index):
        for channel, pixels in enumerate(chunk.transpose(0, 1).flatten(1)):
            counts[channel] += torch.bincount(pixels, minlength=256)
    value, share = torch.arange(256, dtype=torch.float64), counts / counts.sum(1, keepdim=True).double()
    mean = share @ value
    std = (share @ value**2 - mean**2).clamp_min(0).sqrt()
    return mean, torch.where(std > 0, std, 1.0)


def moments(images: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The same of numbers of any type. A channel counts as constant where its deviation is below what float32 has of
    its mean: the sums leave that much.
    """
    total = square = torch.zeros(images.shape[1], dtype=torch.float64)
    for chunk in chunks(images, index):
        values = chunk.transpose(0, 1).flatten(1).double()
        total, square = total + values.sum(1), square + values.square().sum(1)
    count = len(index) * images[0][0].numel()
    mean = total / count
    std = (square / count - mean**2).clamp_min(0).sqrt()
    return mean, torch.where(std > torch.finfo(torch.float32).eps * mean.abs(), std, 1.0)


class ImageNet(Standardize):
    """Subtract the mean of each channel of ImageNet and divide by its standard deviation; nothing is fitted.

    Raises UserError for inputs that are no uint8 pictures with three channels.
    """

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        if len(input_shape) != 3 or input_shape[0] != 3:
            raise UserError(
                f"data.preprocess=imagenet takes pictures in colour, and this data has {list(input_shape)}; "
                "use data.mode=RGB where the data has that setting, or data.preprocess=standardize"
            )
        super().__init__(input_shape)
        for buffer, values in (self.mean, IMAGENET_MEAN), (self.std, IMAGENET_STD):
            buffer.copy_(255 * torch.tensor(values)[:, None, None])

    def fit(self, images: Tensor, index: Tensor) -> None:
        require(images.dtype == torch.uint8, "data.preprocess=imagenet takes uint8 pictures; use standardize or none")


class MeanImage(Preprocess):
    """Scale pixels to [0, 1] and subtract the mean image, pixel by pixel (as AlexNet does); of vectors the mean."""

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__(input_shape)
        self.register_buffer("mean", torch.zeros(input_shape))  # in pixel values, 0 to 255

    def fit(self, images: Tensor, index: Tensor) -> None:
        refuse_indices(images, "mean_image")
        total = sum(chunk.sum(0, dtype=torch.float64) for chunk in chunks(images, index))
        self.mean.copy_(total / len(index))

    def forward(self, images: Tensor) -> Tensor:
        return torch.sub(images, self.mean).div_(scale(images))


class Symmetric(Preprocess):
    """Scale pixels to [-1, 1]; nothing is fitted. Raises UserError for inputs that have no smallest and largest."""

    def fit(self, images: Tensor, index: Tensor) -> None:
        if images.dtype not in (torch.uint8, torch.uint16):
            raise UserError(
                f"data.preprocess=symmetric scales pixels, uint8 or uint16, and the inputs are {told(images)}; "
                "type data.preprocess=standardize"
            )

    def forward(self, images: Tensor) -> Tensor:
        return torch.div(images, scale(images) / 2).sub_(1)


class Whiten(Preprocess):
    """Base class of PCA and ZCA: subtracts a mean image and multiplies by a symmetric matrix [D, D], D = C*H*W,
    or of vectors the number of features.

    The pixels are scaled to [0, 1] first. Fitting computes the eigenvectors of the D x D covariance, which takes a
    second for D = 784 and half a minute for D = 3072.
    """

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__(input_shape)
        size = math.prod(input_shape)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("matrix", torch.eye(size))

    def fit(self, images: Tensor, index: Tensor) -> None:
        refuse_indices(images, "pca and zca")
        size = len(self.mean)
        total, moment = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
        for chunk in chunks(images, index):
            pixels = chunk.flatten(1).double() / scale(chunk)
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
            pixels = scaled(images.flatten(1))
            return ((pixels - self.mean) @ self.matrix).view(images.shape)


class PCA(Whiten):
    """Keep the principal components that together have the fraction `variance`, in (0, 1], of the variance.

    The others are set to 0, and the result is projected back to pixels, so it is still an image.
    """

    def __init__(self, input_shape: tuple[int, ...], variance: float) -> None:
        super().__init__(input_shape)
        if not 0 < variance <= 1:
            raise UserError(f"data.preprocess.variance={variance} is not in (0, 1]; 0.99 keeps 99 % of the variance")
        self.variance = variance

    def gains(self, variances: Tensor) -> Tensor:
        dropped = variances.cumsum(0) <= (1 - self.variance) * variances.sum()
        return (~dropped).double()


class ZCA(Whiten):
    """Whitening that changes the pixels least: U diag(1 / sqrt(variance + eps)) U^T (Bell & Sejnowski 1997)."""

    def __init__(self, input_shape: tuple[int, ...], eps: float) -> None:
        super().__init__(input_shape)
        require(eps > 0, f"data.preprocess.eps={eps} must be positive, or directions without variance become noise")
        self.eps = eps

    def gains(self, variances: Tensor) -> Tensor:
        return (variances + self.eps).rsqrt()


def chunks(images: Tensor, index: Tensor) -> Iterator[Tensor]:
    """images[index] in parts of at most CHUNK bytes, or of one image."""
    for part in index.split(max(1, CHUNK // images[0].nbytes)):
        yield images[part]
