"""An augmentation of a person's own, a function or a module, called in the place of ours."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from athanor.base.errors import UserError
from athanor.data.seeds import global_randomness_kept, mix, seed_all
from athanor.data.sources.checks import told


class OwnAugment:
    """Calls `change(images)`, or `change(images, generator=...)` if it has an argument of that name.

    It gets a batch of training inputs, [N, C, H, W] of pictures, on the device where they lie, and returns as many of
    the same shape and dtype: preprocessing comes later, in the model. With per_image it gets one at a time,
    [C, H, W]; that is the default for transforms of torchvision, which draw random numbers once for all they are given.

    What it draws, from torch, numpy and random or from the generator, is a function of the run's seed, the epoch and
    the step, so a run that is resumed draws the same. Per image it does not depend on the number of processes either;
    on batches it does, as each process has a part of the batch and numbers of its own. What a module remembers from
    batch to batch is not saved.

    change: with all other arguments given. per_image: None: for transforms of torchvision.
    Raises UserError where it cannot be called so, and in the first batch where it returns something else.
    """

    alternates = False
    switched_off = "leave out data/augment and data.augment._target_"

    def __init__(self, change: Callable[..., Tensor], name: str, per_image: bool | None = None) -> None:
        self.change = change
        self.name = name
        parts = change.modules() if isinstance(change, nn.Module) else [change]
        of_torchvision = any(type(part).__module__.startswith("torchvision.transforms") for part in parts)
        self.per_image = of_torchvision if per_image is None else per_image
        signature = inspect.signature(change.forward if isinstance(change, nn.Module) else change)
        self.takes_generator = "generator" in signature.parameters
        try:
            signature.bind(None, **{"generator": None} if self.takes_generator else {})
        except TypeError as error:
            raise UserError(f"data.augment: {name} cannot be called with images: {error}") from error

    def prepare(self, images: Tensor, index: Tensor) -> None:
        """It needs nothing of the training images."""

    def __call__(
        self, images: Tensor, generator: torch.Generator, total: int, start: int = 0, mirrored: Tensor | None = None
    ) -> Tensor:
        seed = generator.initial_seed()
        if isinstance(self.change, nn.Module):
            self.change.to(images.device)
        with torch.no_grad(), global_randomness_kept(images.device):
            if not self.per_image:
                return self._changed(images, mix(seed, start))
            return torch.stack([self._changed(image, mix(seed, start + i)) for i, image in enumerate(images)])

    def _changed(self, images: Tensor, seed: int) -> Tensor:
        seed_all(images.device, seed)
        own = {"generator": torch.Generator(images.device).manual_seed(seed)} if self.takes_generator else {}
        changed = self.change(images, **own)
        returned = told(changed) if isinstance(changed, Tensor) else f"a {type(changed).__name__}"
        if returned != told(images):
            raise UserError(
                f"data.augment: {self.name} got {told(images)} and returned {returned}; "
                "it has to keep dtype and shape\n  numbers around 0 are made by data.preprocess, after it"
            )
        return changed
