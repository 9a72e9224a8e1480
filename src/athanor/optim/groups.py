"""Which parameters decay."""

from torch import nn


def parameter_groups(module: nn.Module, decay: bool) -> list[dict]:
    """Weights, and then biases and norm parameters, which weight decay leaves out (1/2 lambda w^2 on weights alone).

    Without `decay` all are one group: a second one costs an optimizer some 50 us a step.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not decay:
        return [{"params": parameters}]
    decayed = [p for p in parameters if p.ndim > 1]
    kept = [p for p in parameters if p.ndim <= 1]
    return [{"params": decayed}] + ([{"params": kept, "weight_decay": 0.0}] if kept else [])
