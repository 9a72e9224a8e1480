"""Regularisation: more of it means more loss. Data loss and penalty are told apart."""

import torch
from torch import nn

from athanor.craft.checks.finding import Finding
from athanor.craft.checks.subject import Subject, is_pair
from athanor.tasks.task import Task

FAST = True


def check(subject: Subject) -> Finding:
    module = subject.copy()
    slopes = penalty_slopes(subject, module)
    falling = [name for name, slope in slopes.items() if slope < 0]
    decays = {
        group["weight_decay"] for opt in subject.optimizers for group in opt.param_groups if "weight_decay" in group
    }
    figure = (
        f"{losses_apart(subject, module)}{len(slopes)} tensors with a penalty, weight decay {max(decays, default=0):g}"
    )
    if falling:
        return Finding(
            "wrong",
            f"{figure}; it falls with larger {falling[0]}" + f" and {len(falling) - 1} others" * (len(falling) > 1),
            "a penalty rewards large weights: look at its sign",
        )
    return Finding("ok", figure)


def penalty_slopes(subject: Subject, module: nn.Module) -> dict[str, float]:
    """By parameter, the slope of the loss along the parameter itself that does not come through the layers' results:
    that of penalties on weights, above 0 where larger weights cost more. Found by cutting each layer from the graph.
    """
    parts = [part for part in module.modules() if type(part).__module__.startswith("torch.nn.modules")]
    own = [part for part in parts if any(True for _ in part.parameters(recurse=False))]
    called: set[nn.Module] = set()

    def cut(part: nn.Module, inputs: object, output: object) -> object:
        called.add(part)
        return output.detach().requires_grad_().clone() if isinstance(output, torch.Tensor) else output

    hooks = [part.register_forward_hook(cut) for part in own]
    loss = subject.loss(module, subject.batch)
    for hook in hooks:
        hook.remove()
    if module.automatic_optimization and loss.requires_grad:
        loss.backward()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = [p for part in called for p in part.parameters(recurse=False) if p.grad is not None and p.grad.any()]
    return {names[id(p)]: (p.detach() * p.grad).sum().item() for p in found}


def losses_apart(subject: Subject, module: nn.Module) -> str:
    if not isinstance(module, Task) or not is_pair(subject.batch):
        return ""
    subject.seed_anew(0)
    with torch.no_grad():
        loss, outputs = module.training_loss(subject.batch[0], subject.targets)
        data_loss = module.loss_of(outputs, subject.targets).item()
    return f"data {data_loss:.4g} + penalty {loss.item() - data_loss:.4g}, "
