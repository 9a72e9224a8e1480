"""Regularisation: more of it means more loss. Data loss and penalty are told apart."""

import torch
from torch import nn

from athanor.craft.checks.finding import Finding, judged
from athanor.craft.checks.subject import Subject, is_pair
from athanor.tasks.task import Task

FAST = True


def check(subject: Subject) -> Finding:
    module = subject.copy()
    slopes = penalty_slopes(subject, module)
    falling = [name for name, slope in slopes.items() if slope < 0]
    groups = [group for optimizer in subject.optimizers for group in optimizer.param_groups]
    decay = max((group.get("weight_decay", 0) for group in groups), default=0)
    figure = f"{losses_apart(subject, module)}{len(slopes)} tensors with a penalty, weight decay {decay:g}"
    figure += f"; the penalty falls with larger {', '.join(falling[:3])}" if falling else ""
    return judged(figure, "a penalty rewards large weights: look at its sign", wrong=falling)


def penalty_slopes(subject: Subject, module: nn.Module) -> dict[str, float]:
    """By parameter, the slope of the loss along the parameter itself that does not come through the layers' results:
    that of penalties on weights, above 0 where larger weights cost more. Found by cutting each layer from the graph.
    """
    called: set[nn.Module] = set()

    def cut(part: nn.Module, inputs: object, output: object) -> object:
        called.add(part)
        # a copy, as a layer that works in place may follow
        return output.detach().requires_grad_().clone() if isinstance(output, torch.Tensor) else output

    own = [part for part in module.modules() if type(part).__module__.startswith("torch.nn.modules")]
    hooks = [part.register_forward_hook(cut) for part in own if list(part.parameters(recurse=False))]
    loss = subject.loss(module, subject.batch)
    for hook in hooks:
        hook.remove()
    if module.automatic_optimization and loss.requires_grad:
        loss.backward()
    inside = {id(parameter) for part in called for parameter in part.parameters(recurse=False)}
    named = {name: p for name, p in module.named_parameters() if id(p) in inside and p.grad is not None}
    return {name: (p.detach() * p.grad).sum().item() for name, p in named.items() if p.grad.any()}


def losses_apart(subject: Subject, module: nn.Module) -> str:
    if not isinstance(module, Task) or not is_pair(subject.batch):
        return ""
    with torch.no_grad():
        loss, outputs = module.training_loss(subject.batch[0], subject.targets)
        data_loss = module.loss_of(outputs, subject.targets).item()
    return f"data {data_loss:.4g} + penalty {loss.item() - data_loss:.4g}, "
