"""A convolutional network of the VGG kind (Simonyan & Zisserman 2015): stages of small convolutions, then pooling."""

from typing import Literal

from torch import Tensor, nn

from athanor.base.errors import UserError, require
from athanor.models import layers


class CNN(nn.Module):
    """[[conv3x3 -> norm -> activation]*N -> maxpool2]*M -> [fc -> activation -> dropout]*K -> fc.

    N = convs_per_stage, M = len(widths), K = len(fc_widths). [B, C, H, W] -> [B, num_classes].
    Raises UserError for settings that leave no layer, for inputs that are no pictures, and for images that are too
    small to be halved M times.
    """

    initialised_by_activation = True

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        widths: list[int],
        convs_per_stage: int,
        fc_widths: list[int],
        norm: Literal["none", "batch", "group", "layer"],
        activation: str,
        dropout: float,
    ):
        super().__init__()
        layers.require_pictures("cnn", input_shape)
        channels, height, width = input_shape
        check_stages(widths, convs_per_stage, height, width)
        layers.check_widths("model.fc_widths", fc_widths)
        self.stages = nn.Sequential()
        for in_channels, out_channels in zip([channels, *widths], widths, strict=False):
            self.stages.append(vgg_stage(in_channels, out_channels, convs_per_stage, norm, activation))
        fan_in = widths[-1] * (height >> len(widths)) * (width >> len(widths))
        self.fcs = nn.Sequential()
        for fc_width in fc_widths:
            fc = nn.Linear(fan_in, fc_width * layers.inputs_per_unit(activation))
            self.fcs.append(nn.Sequential(fc, layers.activation(activation), layers.dropout(dropout)))
            fan_in = fc_width
        self.head = nn.Linear(fan_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x)  # [B, widths[-1], H / 2^M, W / 2^M]
        return self.head(self.fcs(x.flatten(1)))


def vgg_stage(in_channels: int, width: int, num_convs: int, norm: str, activation: str) -> nn.Sequential:
    """[conv3x3 -> norm -> activation]*num_convs -> maxpool2: [B, in_channels, H, W] -> [B, width, H/2, W/2]."""
    stage = nn.Sequential()
    for i in range(num_convs):
        out_channels = width * layers.inputs_per_unit(activation)
        bias = norm == "none"  # a norm layer subtracts the mean, and adds a bias of its own
        stage.append(nn.Conv2d(width if i else in_channels, out_channels, 3, padding=1, bias=bias))
        stage.append(layers.norm2d(norm, out_channels))
        stage.append(layers.activation(activation))
    return stage.append(nn.MaxPool2d(2))


def check_stages(widths: list[int], convs_per_stage: int, height: int, width: int) -> None:
    require(widths, "model.widths=[] leaves no stage; give one width per stage, e.g. model.widths=[32,64]")
    layers.check_widths("model.widths", widths)
    require(convs_per_stage >= 1, f"model.convs_per_stage={convs_per_stage} must be at least 1")
    most = min(height, width).bit_length() - 1
    if len(widths) > most:
        raise UserError(
            f"model.widths={list(widths)} makes {len(widths)} stages, each of which halves the image: "
            f"{height}x{width} images allow at most {most}; shorten model.widths"
        )
