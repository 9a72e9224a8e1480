"""Any network of timm (pip install timm) by its name, with random or pretrained weights."""

import logging
from pathlib import Path

from torch import Tensor, nn

from athanor.base.errors import UserError, first_line, nearest
from athanor.models.torchvision import check_size

log = logging.getLogger(__name__)


class Timm(nn.Module):
    """[B, C, H, W] -> [B, num_classes], for any number of channels.

    name: as timm spells it, e.g. resnet18, or resnet18.a1_in1k with the name of weights. pretrained: all layers but the
    last have these weights; those of the first are changed by timm to other numbers of channels than three.
    Raises UserError where timm is not installed or has no such network, and for images that it cannot take.
    """

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int, name: str, pretrained: bool):
        super().__init__()
        try:
            import timm  # not installed with this project, and it takes seconds
        except ImportError as error:
            raise UserError(f"model=timm: {error}; type pip install timm") from error
        if not timm.is_model(name):
            raise UserError(f"model.name={name} is no network of timm; {nearest(name, timm.list_models())}")
        if pretrained and not timm.is_model_pretrained(name):
            raise UserError(f"model.name={name}: timm has no weights for it; type model.pretrained=false")
        self.name, self.pretrained = name, pretrained
        self.settings = {"num_classes": num_classes, "in_chans": input_shape[0]}
        try:  # transformers are built for one size of images
            self.net = timm.create_model(name, **self.settings, img_size=tuple(input_shape[1:]))
            self.settings["img_size"] = tuple(input_shape[1:])
        except TypeError:  # and networks of convolutions take any
            self.net = timm.create_model(name, **self.settings)
        except AssertionError as error:
            raise UserError(f"model.name={name} cannot take {list(input_shape)} images: {first_line(error)}") from error
        check_size(self, name, input_shape)

    def load_pretrained(self, data_dir: str) -> None:
        """Put the pretrained weights into all layers but the last; files are those of `data_dir`/weights.

        Raises UserError where they are not there and cannot be downloaded.
        """
        if not self.pretrained:
            return
        import timm

        folder = Path(data_dir) / "weights"
        files = [folder / f"{self.name}{suffix}" for suffix in (".safetensors", ".pth")]
        own = next(({"file": str(path)} for path in files if path.is_file()), None)
        try:
            given = timm.create_model(
                self.name, pretrained=True, pretrained_cfg_overlay=own, cache_dir=str(folder), **self.settings
            )
        except (OSError, RuntimeError) as error:  # of the network, or weights of another network
            raise UserError(
                f"model.pretrained: {first_line(error)}\n"
                f"  put the weights into {files[0]}, or type model.pretrained=false"
            ) from error
        self.net.load_state_dict(given.state_dict())
        constants = {key: list(given.pretrained_cfg[key]) for key in ("mean", "std")}
        fits = "imagenet" if constants["mean"] == [0.485, 0.456, 0.406] else "symmetric"
        log.info("%s begins with weights for %s, which go with data/preprocess=%s", self.name, constants, fits)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
