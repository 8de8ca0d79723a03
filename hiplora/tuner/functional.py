"""The update of METHOD.md section 2 as one differentiable operation, and the stability cost of section 3."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def budget_cost(core: Tensor, sigma: Tensor, power: float) -> Tensor:
    """Return `sum_ij w_i w_j C_ij^2 / sum_i (w_i s_i)^2` with `w_i = (s_i / s_1)^p`, differentiable in `C`.

    The torch twin of `hiplora.budget_cost`. Elementwise products only: autocast would compute a matrix
    product in half precision. (Paper: a budget weighted by singular values. Our choice: this form of it.)

    Args:
        core: (..., k, k).
        sigma: (..., k), descending, the first above 0.
        power: `p`.

    Returns:
        (...,), dimensionless. Its gradient at `core = 0` is 0.
    """
    w = (sigma / sigma[..., :1]) ** power
    return (core * core * w[..., :, None] * w[..., None, :]).sum((-2, -1)) / (w * sigma).square().sum(-1)


def within_budget(core: Tensor, sigma: Tensor, power: float, epsilon: float) -> Tensor:
    """Return `C * min(1, epsilon / sqrt(cost(C)))` (hard mode; our choice), exactly `C` while the budget holds.

    Args:
        core: (k, k).
        sigma: (k,).
        power: `p` of the weights.
        epsilon: the budget.
    """
    # Clamping before the root keeps its gradient finite at the start, where C and so the cost are 0.
    limit = epsilon * epsilon
    return core * (limit / budget_cost(core, sigma, power).clamp_min(limit)).sqrt()


def project_out(rows: Tensor, basis: Tensor) -> Tensor:
    """Return `X (I - Q^T Q)`: the rows of `X` (r, d) without their part in the span of the rows of `Q` (k, d).

    Computed in the dtype of `Q`: 16 bits would leave a part of `X` in the span.
    """
    rows = rows.to(basis.dtype)
    return torch.addmm(rows, rows @ basis.T, basis, alpha=-1)


class AddUpdate(torch.autograd.Function):
    """`result + [U_k | B'] ( [C 0; 0 alpha/r] ( [V_k | A'^T]^T x ) )`, with its own backward.

    Autograd would also form the gradients of the frozen `U_k` and `V_k`, which are part of the fused products: with
    k = 16 and r = 8 that is half as much work again. Here they are never formed.

    Shapes: `result` (..., m), `x` (..., n), `A` (r, n), `B` (m, r), `C` (k, k), `Ut` (k, m), `Vt` (k, n). `x` has the
    dtype to compute the two products in; `A` and `B` are projected in the dtype of the factors.
    """

    @staticmethod
    def forward(
        ctx: Any, result: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, Ut: Tensor, Vt: Tensor, scaling: float
    ) -> Tensor:
        """Return `result` plus the update applied to `x`, in the dtype of `result`."""
        with _autocast_off(x):
            k, dtype = len(C), x.dtype
            A_out, B_out = project_out(A, Vt).to(dtype), project_out(B.T, Ut).to(dtype)
            core = C.to(dtype)
            flat = x.reshape(-1, x.shape[-1])
            z = flat @ _joined(Vt, A_out).T
            h = torch.cat([z[:, :k] @ core.T, z[:, k:] * scaling], dim=1)
            w_out = _joined(Ut, B_out)
            # The joined factors are recomputed in the backward: kept for all layers they would take the most memory.
            ctx.save_for_backward(flat, z, A_out, B_out, core, Ut, Vt)
            ctx.scaling = scaling
            ctx.x_shape = x.shape
            ctx.dtypes = (A.dtype, B.dtype, C.dtype)
            if result.dtype == dtype:
                return torch.addmm(result.reshape(-1, result.shape[-1]), h, w_out).reshape(result.shape)
            return (result + (h @ w_out).reshape(result.shape)).to(result.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of `result, x, A, B, C`; the factors have none."""
        flat, z, A_out, B_out, core, Ut, Vt = ctx.saved_tensors
        k, scaling, dtype = len(core), ctx.scaling, flat.dtype
        A_dtype, B_dtype, core_dtype = ctx.dtypes
        _, need_x, need_A, need_B, need_C, *_ = ctx.needs_input_grad
        grad_x = grad_A = grad_B = grad_C = None
        with _autocast_off(flat):
            g = grad.reshape(-1, grad.shape[-1]).to(dtype)
            gh = g @ _joined(Ut, B_out).T
            gh[:, k:] *= scaling
            # Projections are symmetric: the backward applies to the gradients what the forward applied to A and B.
            if need_B:
                grad_B = (project_out(z[:, k:].T @ g, Ut) * scaling).T.to(B_dtype)
            if need_C:
                grad_C = (gh[:, :k].T @ z[:, :k]).to(core_dtype)
            if need_A:
                grad_A = project_out(gh[:, k:].T @ flat, Vt).to(A_dtype)
            if need_x:
                gz = torch.cat([gh[:, :k] @ core, gh[:, k:]], dim=1)
                grad_x = (gz @ _joined(Vt, A_out)).reshape(ctx.x_shape)
        return grad, grad_x, grad_A, grad_B, grad_C, None, None, None


def _joined(basis: Tensor, rest: Tensor) -> Tensor:
    return torch.cat([basis.to(rest.dtype), rest])


def compute_dtype(x: Tensor, parameters: Tensor) -> torch.dtype:
    """Return the dtype of the two large products: autocast's where it is on, else that of the adapter's parameters."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return parameters.dtype


def _autocast_off(x: Tensor) -> AbstractContextManager[Any]:
    # Entering autocast costs a few microseconds per layer and call: only where it is on.
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
