"""Which devices this machine has, and how many of them a job asks for."""


def available() -> dict[str, bool]:
    """Whether torch can use cuda and mps on this machine."""
    import torch  # takes a second to import, which a job that names its devices need not wait for

    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def device_type(accelerator: str) -> str:
    """`cuda`, `mps` or `cpu` for trainer.accelerator; `auto` and `gpu` take the best that this machine has."""
    if accelerator in ("auto", "gpu"):
        return next((name for name, is_available in available().items() if is_available), "cpu")
    return accelerator


def count(trainer: dict) -> int:
    """The number of devices that the settings of a trainer ask for."""
    devices = trainer["devices"]
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", -1, "-1"):
        import torch

        on_cpu = trainer["accelerator"] == "cpu" or not torch.cuda.is_available()
        return 1 if on_cpu else torch.cuda.device_count()
    return int(devices)
