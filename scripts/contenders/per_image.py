"""The usual data path: images one by one through torchvision's transforms and a DataLoader."""

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from contenders import task


class Images(Dataset):
    """PIL images from arrays in memory, like torchvision.datasets.MNIST and CIFAR10."""

    def __init__(self, images: Tensor, labels: Tensor, index: Tensor, transform: transforms.Compose) -> None:
        pixels = images[index].permute(0, 2, 3, 1)  # to height, width, channels, the order of PIL
        self.pixels = pixels.squeeze(-1).contiguous().numpy()
        self.labels = labels[index].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[i])), self.labels[i]


def loaders(cfg: dict, data: task.Data, workers: int) -> tuple[DataLoader, DataLoader]:
    """A loader of the training images, shuffled and augmented, and one of the validation images."""
    preprocess = data.standardize()
    mean, std = ((values / 255).flatten().tolist() for values in (preprocess.mean, preprocess.std))
    val_transforms = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    train_transforms = list(val_transforms)
    if data.augment.flip:
        train_transforms.insert(0, transforms.RandomHorizontalFlip())
    if data.augment.crop:
        train_transforms.insert(0, transforms.RandomCrop(data.input_shape[1:], data.augment.crop))
    on_gpu = task.device_of(cfg).type == "cuda"
    common = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": on_gpu}
    train = Images(data.images, data.labels, data.train_index, transforms.Compose(train_transforms))
    val = Images(data.images, data.labels, data.val_index, transforms.Compose(val_transforms))
    return (
        DataLoader(train, batch_size=data.batch_size, shuffle=True, drop_last=True, **common),
        DataLoader(val, batch_size=data.eval_batch_size, **common),
    )
