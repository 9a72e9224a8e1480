"""Muon, an optimizer for the weights of hidden layers of any dimension: its steps are nearly orthogonal matrices.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". torch.optim.Muon takes 2-D weights only.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from athanor.base.errors import UserError, require
from athanor.base.lightning_internals import momentum_directions, norms_of_tensors, scale_tensors

# Of the polynomial a x + b x^3 + c x^5, which each iteration applies to the singular values; steep at 0, so that few
# iterations are enough (Jordan et al.).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# layers that multiply by their weights; class tokens, positions, embeddings and the scales of a norm multiply nothing
LAYERS = (nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention, nn.RNNBase)
LAYERS += (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Muon(Optimizer):
    """Muon for the weights of layers but the last, which is the classifier's; AdamW for that one and all the rest.

    A convolution [out, in, h, w] is taken as the matrix [out, in*h*w]. A step changes a weight by lr times a matrix
    whose norm is about sqrt(out). With `normalize`, which brings each weight back to that norm before each step, lr is
    therefore the relative change. Use that where each weight is followed by a norm layer, so that the weight's own
    scale has no effect; use `weight_decay`, decoupled as in AdamW, elsewhere (with `normalize` it does nothing).

    params: groups as `Muon.groups` makes them, or parameters, of which those with two dimensions or more are weights.
    lr, momentum, nesterov, newton_schulz_steps, normalize, weight_decay: of the weights of hidden layers.
        newton_schulz_steps: 3 are enough for the CIFAR-10 records, the paper takes 5.
    adam_lr: learning rate of the last weight, and of what else has two dimensions or more, as class tokens, positions
        and embeddings. bias_lr: of biases and norms; None: adam_lr.
    Raises UserError for a model without hidden layers and for settings out of range.
    """

    def __init__(
        self,
        params: Iterable,
        *,
        lr: float,
        momentum: float,
        nesterov: bool,
        newton_schulz_steps: int,
        normalize: bool,
        weight_decay: float,
        adam_lr: float,
        bias_lr: float | None,
        adam_betas: tuple[float, float],
    ) -> None:
        bias_lr = adam_lr if bias_lr is None else bias_lr
        check_range(1, momentum=momentum, **{f"adam_betas[{i}]": beta for i, beta in enumerate(adam_betas)})
        check_range(math.inf, lr=lr, adam_lr=adam_lr, bias_lr=bias_lr, weight_decay=weight_decay)
        if newton_schulz_steps < 1:
            raise UserError(f"optim.newton_schulz_steps={newton_schulz_steps} must be at least 1; use 3 to 5")
        params = list(params)
        first, *others = [list(g["params"]) for g in params] if isinstance(params[0], dict) else [params]
        *weights, last = [p for p in first if p.ndim > 1] or [None]
        require(weights, "optim=muon is for hidden layers, and this model has none; use another optimizer")
        # `fused` makes Optimizer.load_state_dict put the step counters where the parameters are
        adam = {"hidden": False, "weight_decay": 0.0, "fused": True}
        rest = [p for group in others for p in group]
        by_adam = [last, *(p for p in rest if p.ndim > 1)]
        groups = [{"params": weights, "lr": lr, "hidden": True}, {"params": by_adam, "lr": adam_lr, **adam}]
        biases = [p for p in [*first, *rest] if p.ndim <= 1]
        groups += [{"params": biases, "lr": bias_lr, **adam}] if biases else []
        shared = dict(momentum=momentum, nesterov=nesterov, newton_schulz_steps=newton_schulz_steps)
        shared |= dict(normalize=normalize, weight_decay=weight_decay, betas=tuple(adam_betas), eps=1e-8)
        super().__init__(groups, {"lr": lr, **shared})

    @staticmethod
    def groups(module: nn.Module) -> list[dict]:
        """The learning parameters of a network in two groups: the weights of its LAYERS, and all others."""
        owned = (pair for m in module.modules() if isinstance(m, LAYERS) for pair in m.named_parameters(recurse=False))
        weights = {id(p) for name, p in owned if "weight" in name}
        parameters = [p for p in module.parameters() if p.requires_grad]
        split = [[p for p in parameters if (id(p) in weights) is wanted] for wanted in (True, False)]
        return [{"params": part} for part in split]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                (self._step_hidden if group["hidden"] else self._step_adam)(group, params)
        return loss

    def _step_hidden(self, group: dict, params: list[Tensor]) -> None:
        grads, buffers = [p.grad for p in params], [self._buffer(p, "momentum_buffer") for p in params]
        directions = momentum_directions(grads, buffers, group["momentum"], group["nesterov"])
        if group["normalize"]:
            norms = norms_of_tensors(params)
            scale_tensors(params, [len(p) ** 0.5 / (norm + 1e-12) for p, norm in zip(params, norms, strict=True)])
        elif group["weight_decay"]:
            scale_tensors(params, 1 - group["lr"] * group["weight_decay"])
        of_shape: dict[tuple, list[int]] = defaultdict(list)  # one batched product for all weights of a shape
        for i, p in enumerate(params):
            of_shape[len(p), p.numel() // len(p)].append(i)
        for (rows, columns), numbers in of_shape.items():
            matrices = torch.stack([directions[i].reshape(rows, columns) for i in numbers])
            scale = group["lr"] * max(1, rows / columns) ** 0.5
            for i, change in zip(numbers, orthogonalize(matrices, group["newton_schulz_steps"]), strict=True):
                params[i].sub_(change.view(params[i].shape), alpha=scale)

    def _step_adam(self, group: dict, params: list[Tensor]) -> None:
        for p in params:
            if "step" not in self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
        grads, steps = [p.grad for p in params], [self.state[p]["step"] for p in params]
        averages, squares = ([self._buffer(p, name) for p in params] for name in ("exp_avg", "exp_avg_sq"))
        beta1, beta2 = group["betas"]
        settings = {name: group[name] for name in ("lr", "weight_decay", "eps")}
        settings |= dict(beta1=beta1, beta2=beta2, amsgrad=False, maximize=False)
        adamw(params, grads, averages, squares, [], steps, fused=True, **settings)

    def _buffer(self, parameter: Tensor, name: str) -> Tensor:
        """A tensor of the parameter's state, of the parameter's shape, 0 at first."""
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        return state[name]


def check_range(limit: float, **settings: float) -> None:
    for name, value in settings.items():
        require(0 <= value < limit, f"optim.{name}={value} is not in [0, {limit})")


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """Newton-Schulz iteration towards U V^T of each U S V^T: [N, rows, columns] -> the same shape and dtype.

    It is computed in bfloat16. With COEFFICIENTS a singular value ends between 0.68 and 1.20, which trains as well as
    exactly 1, if it begins above 0.018 of the matrix's norm with 3 steps, 0.0052 with 4, 0.0016 with 5. Smaller ones
    end lower: of a square Gaussian matrix of 256 rows 5 % below 0.20 with 3 steps, and 1 % below 0.39 with 5.
    """
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # the largest singular value is at most 1
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)
