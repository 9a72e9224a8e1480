"""Parameter groups of an optimizer: which parameters have weight decay."""

from torch import nn


def parameter_groups(module: nn.Module, decay: bool) -> list[dict]:
    """Two groups: weights, and then biases and the parameters of norm layers, on which there is no weight decay.

    A parameter of one dimension counts as a bias. The penalty is 1/2 lambda w^2 on weights alone.
    decay=False gives one group with all parameters: a second group costs some optimizers 50 microseconds a step.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not decay:
        return [{"params": parameters}]
    weights = [p for p in parameters if p.ndim > 1]
    biases = [p for p in parameters if p.ndim <= 1]
    return [{"params": weights}] + ([{"params": biases, "weight_decay": 0.0}] if biases else [])
