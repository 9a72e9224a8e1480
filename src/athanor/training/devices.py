"""Which devices this machine has, and how many of them a job asks for."""


def there() -> dict[str, bool]:
    import torch  # takes a second, and a job that names its devices need not ask

    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def kind(accelerator: str) -> str:
    """cuda, mps or cpu."""
    if accelerator in ("auto", "gpu"):
        return next((name for name, is_there in there().items() if is_there), "cpu")
    return accelerator


def count(trainer: dict) -> int:
    devices = trainer["devices"]
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", -1, "-1"):
        import torch

        on_cpu = trainer["accelerator"] == "cpu" or not torch.cuda.is_available()
        return 1 if on_cpu else torch.cuda.device_count()
    return int(devices)
