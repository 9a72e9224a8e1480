"""Any classification network of torchvision by its name, with random or pretrained weights."""

import torch
from torch import Tensor, nn

from athanor.base.errors import UserError, nearest
from athanor.models import layers

# The two networks with auxiliary heads, which would make the outputs in training tuples instead of logits.
AUXILIARY = ("googlenet", "inception_v3")


class Torchvision(nn.Module):
    """[B, 1 or 3, H, W] -> [B, num_classes]; grey images are repeated to three channels.

    name, weights: as torchvision spells them, e.g. resnet18 and IMAGENET1K_V1; weights=None is random initialisation.
    Pretrained weights keep all layers but the last, which is made anew. Raises UserError for a name that torchvision
    does not have, and for images that are too small for the network.
    """

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int, name: str, weights: str | None):
        super().__init__()
        layers.require_pictures("torchvision", input_shape)
        if input_shape[0] not in (1, 3):
            raise UserError(
                f"model=torchvision takes 1 or 3 channels, and the data has {input_shape[0]}; "
                "use model=resnet or model=cnn, which take any number"
            )
        self.pretrained = weights is not None
        self.net = build_network(name, weights, num_classes)
        check_size(self, name, input_shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.expand(-1, 3, -1, -1))


def build_network(name: str, weights: str | None, num_classes: int) -> nn.Module:
    from torchvision import models  # takes a second, and only this model needs it

    names = models.list_models(module=models)
    if name not in names:
        raise UserError(
            f"model.name={name} is not a classification network of torchvision; {nearest(name, names)}\n"
            "  names are those of https://docs.pytorch.org/vision/stable/models.html, in lower case, e.g. resnet18"
        )
    options = {"aux_logits": False} if name in AUXILIARY else {}
    if weights is None:
        options |= {"init_weights": True} if name in AUXILIARY else {}  # else torchvision warns
        return models.get_model(name, weights=None, num_classes=num_classes, **options)
    pretrained = layers.choose("model.weights", weights, models.get_model_weights(name).__members__)
    network = models.get_model(name, weights=pretrained, **options)
    replace_head(network, num_classes)
    return network


def replace_head(network: nn.Module, num_classes: int) -> None:
    """Replace the last layer with weights by a new one: a Linear layer, or in SqueezeNet a 1x1 convolution."""
    name, head = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    if isinstance(head, nn.Linear):
        new = nn.Linear(head.in_features, num_classes, bias=head.bias is not None)
    else:
        new = nn.Conv2d(head.in_channels, num_classes, kernel_size=1)
    network.set_submodule(name, new)


@torch.no_grad()
def check_size(model: Torchvision, name: str, input_shape: tuple[int, int, int]) -> None:
    """Show the network one black image: there is no other way to know the smallest size that it takes."""
    model.eval()
    try:
        model(torch.zeros(1, *input_shape))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"model.name={name} cannot take {input_shape[1]}x{input_shape[2]} images ({reason}): "
            "it needs larger ones, as a rule 224x224. Raise data.image_size where the data has that setting, "
            "or use model=resnet or model=cnn, which take small images"
        ) from error
    model.train()
