"""Any classification network of torchvision by its name, with random or pretrained weights."""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from athanor.base.errors import UserError, first_line, nearest
from athanor.models import layers

log = logging.getLogger(__name__)

# The two networks with auxiliary heads, which would make the outputs in training tuples instead of logits. Their
# pretrained weights expect numbers in [-1, 1], which they make of those of data/preprocess=imagenet.
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
        from torchvision import models  # takes a second, and only this model needs it

        names = models.list_models(module=models)
        if name not in names:
            raise UserError(
                f"model.name={name} is not a classification network of torchvision; {nearest(name, names)}\n"
                "  names are those of https://docs.pytorch.org/vision/stable/models.html, in lower case, e.g. resnet18"
            )
        self.name, self.pretrained = name, weights is not None
        choices = models.get_model_weights(name).__members__
        self.weights = layers.choose("model.weights", weights, choices) if self.pretrained else None
        options = {"aux_logits": False, "transform_input": self.pretrained} if name in AUXILIARY else {}
        options |= {"init_weights": True} if name in AUXILIARY else {}  # else torchvision warns
        self.net = models.get_model(name, weights=None, num_classes=num_classes, **options)
        check_size(self, name, input_shape)

    def load_pretrained(self, data_dir: str) -> None:
        """Put the pretrained weights into all layers but the last; files are those of `data_dir`/weights/checkpoints.

        Raises UserError where they are not there and cannot be downloaded.
        """
        if not self.pretrained:
            return
        from torchvision import models

        before = torch.hub.get_dir()
        torch.hub.set_dir(str(Path(data_dir) / "weights"))
        try:
            given = models.get_model(self.name, weights=self.weights).state_dict()
        except (OSError, RuntimeError) as error:  # no network, or a damaged file
            place = Path(data_dir) / "weights" / "checkpoints"
            raise UserError(
                f"model.weights: {first_line(error)}\n  put {self.weights.url} into {place}, or type model.weights=null"
            ) from error
        finally:
            torch.hub.set_dir(before)
        head, own = f"{last_layer(self.net)}.", self.net.state_dict()
        self.net.load_state_dict({key: own[key] if key.startswith(head) else given[key] for key in own})
        log.info("%s begins with weights of ImageNet, which go with data/preprocess=imagenet", self.name)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.expand(-1, 3, -1, -1))


def last_layer(network: nn.Module) -> str:
    """The name of the last layer with weights: a Linear layer, or in SqueezeNet a 1x1 convolution."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


@torch.no_grad()
def check_size(model: nn.Module, name: str, input_shape: tuple[int, int, int]) -> None:
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
