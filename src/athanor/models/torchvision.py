"""Any classification network of torchvision, by name, random or pretrained."""

import torch
from torch import Tensor, nn

from athanor.models import layers

# The two networks with auxiliary heads, whose outputs in training would be tuples instead of logits.
AUXILIARY = ("googlenet", "inception_v3")


class Torchvision(nn.Module):
    """[B, 1 or 3, H, W] -> [B, num_classes]; grey images are repeated to three channels."""

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int, name: str, weights: str | None):
        super().__init__()
        if input_shape[0] not in (1, 3):
            raise ValueError(
                f"model=torchvision takes 1 or 3 channels, and the data has {input_shape[0]}; "
                "use model=resnet or model=cnn, which take any number"
            )
        if weights is None:
            self.net = random_net(name, num_classes)
        else:
            self.net = pretrained_net(name, weights, num_classes)
        check_size(self, name, input_shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.expand(-1, 3, -1, -1))


def random_net(name: str, num_classes: int) -> nn.Module:
    extra = {"aux_logits": False, "init_weights": True} if name in AUXILIARY else {}
    return catalogue(name).get_model(name, weights=None, num_classes=num_classes, **extra)


def pretrained_net(name: str, weights: str, num_classes: int) -> nn.Module:
    models = catalogue(name)
    layers.check_choice("model.weights", weights, models.get_model_weights(name).__members__)
    extra = {"aux_logits": False} if name in AUXILIARY else {}
    net = models.get_model(name, weights=weights, **extra)
    replace_head(net, num_classes)
    return net


def catalogue(name: str):
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise ValueError(
            f"model.name={name} is not a classification network of torchvision{layers.nearest(name, names)}; "
            "names are those of https://docs.pytorch.org/vision/stable/models.html, in lower case, e.g. resnet18"
        )
    return models


def replace_head(net: nn.Module, num_classes: int) -> None:
    """The head is the last layer with weights: a Linear, or in SqueezeNet a 1x1 convolution."""
    path, head = [(path, m) for path, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    if isinstance(head, nn.Linear):
        new = nn.Linear(head.in_features, num_classes, bias=head.bias is not None)
    else:
        new = nn.Conv2d(head.in_channels, num_classes, kernel_size=1)
    net.set_submodule(path, new)


@torch.no_grad()
def check_size(model: Torchvision, name: str, input_shape: tuple[int, int, int]) -> None:
    model.eval()
    try:
        model(torch.zeros(1, *input_shape))
    except (RuntimeError, AssertionError, ValueError) as error:
        _, height, width = input_shape
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"model.name={name} cannot take {height}x{width} images ({reason}): it needs larger ones, as a rule "
            "224x224. Raise data.image_size where the data has that knob, "
            "or use model=resnet or model=cnn, which take small images"
        ) from error
    model.train()
