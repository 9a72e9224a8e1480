"""Images one by one through torchvision's transforms and a DataLoader, as most training code has it."""

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from contenders import task


class Images(Dataset):
    """PIL images from arrays in memory, like torchvision.datasets.MNIST and CIFAR10."""

    def __init__(self, images: Tensor, labels: Tensor, index: Tensor, transform: transforms.Compose) -> None:
        chosen = images[index].permute(0, 2, 3, 1)  # height, width, colours, as PIL has them
        self.pixels = chosen.squeeze(-1).contiguous().numpy()
        self.labels, self.transform = labels[index].tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[i])), self.labels[i]


def loaders(cfg: dict, data: task.Data, workers: int) -> tuple[DataLoader, DataLoader]:
    """Of the training images, shuffled and augmented, and of the validation images."""
    fitted = data.standardize()
    mean, std = ((values / 255).flatten().tolist() for values in (fitted.mean, fitted.std))
    evaluated = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    trained = list(evaluated)
    if data.augment.flip:
        trained.insert(0, transforms.RandomHorizontalFlip())
    if data.augment.crop:
        trained.insert(0, transforms.RandomCrop(data.input_shape[1:], data.augment.crop))
    common = {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": task.device(cfg) == torch.device("cuda"),
    }
    train = Images(data.images, data.labels, data.train_index, transforms.Compose(trained))
    val = Images(data.images, data.labels, data.val_index, transforms.Compose(evaluated))
    return (
        DataLoader(train, batch_size=data.batch_size, shuffle=True, drop_last=True, **common),
        DataLoader(val, batch_size=data.eval_batch_size, **common),
    )
