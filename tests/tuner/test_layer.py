"""The algebra of one layer, against dense references in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from hiplora.adapters.hiplora_format import low_rank_factors, module_settings
from hiplora.errors import HiploraError
from hiplora.geometry import moments_of
from hiplora.spectrum import content_hash
from hiplora.tuner import HipLoraConfig, HipLoraLinear
from hiplora.tuner.functional import AddUpdate
from hiplora.tuner.observe import give_inputs
from tests import numerics

# Float64 products of matrices of at most 9 rows, with entries below 1e3: a few hundred roundings of at most 1e5.
TOLERANCE = 1e-10


def inputs_of(n: int, tokens: int = 40, seed: int = 5) -> torch.Tensor:
    """Inputs (tokens, n) of falling sizes, mixed: a moment with condition 100."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))[0]
    sizes = 3 * torch.logspace(0, -1, n, dtype=torch.float64)
    return torch.randn(tokens, n, dtype=torch.float64, generator=generator) * sizes @ mixed


def make_layer(weight: torch.Tensor, *, conv: bool = False, inputs: torch.Tensor | None = None, **fields):
    """A layer on `weight` (out x in) with adapter "a", B and the core at random."""
    m, n = weight.shape
    base = Conv1D(m, n) if conv else nn.Linear(n, m, dtype=weight.dtype)
    base.to(weight.dtype).requires_grad_(False)
    if fields.get("geometry") == "inputs":
        inputs = inputs_of(n) if inputs is None else inputs
        give_inputs(base, lambda: moments_of(inputs))
    base.weight.data = (weight.T if conv else weight).clone(memory_format=torch.contiguous_format)
    config = HipLoraConfig(**fields)
    return HipLoraLinear(
        base, "a", config=config, settings=module_settings(vars(config), ["x"])["x"], module="x", loading=False
    )


def exact(layer: HipLoraLinear, scale: float = 0.1) -> HipLoraLinear:
    """The layer in float64 with its basis orthonormal to float64, and B and the core at random."""
    layer.double()
    for basis in (layer.hiplora_Ut, layer.hiplora_Vt):
        P, _, Qt = torch.linalg.svd(basis["a"], full_matrices=False)
        basis["a"] = P @ Qt
    generator = torch.Generator().manual_seed(7)
    for values in (layer.hiplora_B, layer.hiplora_C):
        values["a"].data = scale * torch.randn(values["a"].shape, dtype=torch.float64, generator=generator)
    return layer


def update_error(layer: HipLoraLinear, x: torch.Tensor, dtype: object, steps: int, sums: bool = True) -> float:
    """How far rounding may take an output of the update on `x`."""
    L, R = layer.delta_factors("a")
    return numerics.product_error(x, R.T, L.T, dtype=dtype, steps=steps, sums=sums)


def dense(layer: HipLoraLinear) -> dict[str, torch.Tensor]:
    """`dW_p`, `dW_r` and the cost by the formulas of METHOD.md, term by term on dense matrices."""
    s = layer.hiplora_settings["a"]
    A, B, C = (getattr(layer, f"hiplora_{name}")["a"].detach() for name in "ABC")
    U, S, V = layer.hiplora_Ut["a"].T, layer.hiplora_S["a"], layer.hiplora_Vt["a"].T
    C = torch.diag(S * C) if s.core == "diagonal" else C
    Rinv = layer.basis("a").get("Rinv", torch.eye(len(S), dtype=S.dtype))
    w = [(float(sigma) / float(S[0])) ** s.budget_power for sigma in S]
    k = len(S)
    cost = sum(w[i] * w[j] * float(C[i, j]) ** 2 for i in range(k) for j in range(k))
    cost /= sum((w[i] * float(S[i])) ** 2 for i in range(k))
    if s.budget_mode == "hard" and cost > 0:
        C = C * min(1.0, s.epsilon / cost**0.5)
    eye = torch.eye
    residual = (eye(len(U), dtype=U.dtype) - U @ U.T) @ B @ A @ (eye(len(V), dtype=V.dtype) - V @ V.T)
    return {
        "p": U @ C @ Rinv @ V.T,
        "r": s.lora_alpha / s.r * residual,
        "U": U,
        "V": V,
        "cost": torch.tensor(cost, dtype=torch.float64),
    }


@st.composite
def cases(draw):
    m, n = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    smallest = min(m, n)
    kind = draw(st.sampled_from(["random", "rank-deficient", "repeated"]))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    W = generator.standard_normal((m, n))
    if kind != "random":
        P, _, Qt = np.linalg.svd(W, full_matrices=False)
        sigma = np.zeros(smallest)
        sigma[: max(1, smallest // 2)] = 1.0
        W = P @ np.diag(sigma if kind == "rank-deficient" else np.ones(smallest)) @ Qt
    fields = {
        "r": draw(st.integers(1, smallest)),
        "principal_rank": draw(st.integers(1, smallest)),
        "geometry": draw(st.sampled_from(["weights", "inputs"])),
        "lora_alpha": draw(st.sampled_from([1, 16])),
        "core": draw(st.sampled_from(["full", "diagonal"])),
        "budget_mode": draw(st.sampled_from(["soft", "hard"])),
        "budget_power": draw(st.sampled_from([0.0, 1.0, 2.0])),
        "epsilon": draw(st.sampled_from([0.05, 10.0])),
    }
    return torch.tensor(W), fields, draw(st.booleans())


@settings(max_examples=120, deadline=None)
@given(cases())
def test_invariants(case):
    W, fields, conv = case
    layer = exact(make_layer(W, conv=conv, **fields))
    want = dense(layer)
    dW = layer.get_delta_weight("a").detach()
    dW = dW.T if conv else dW
    L, R = (factor.detach() for factor in layer.delta_factors("a"))
    torch.testing.assert_close(dW, want["p"] + want["r"], atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(L @ R, dW, atol=TOLERANCE, rtol=TOLERANCE)
    assert L.shape[1] == R.shape[0] == fields["r"] + fields["principal_rank"]

    residual = dW - want["p"]
    assert (want["U"].T @ residual).abs().max() < TOLERANCE
    assert (residual @ want["V"]).abs().max() < TOLERANCE
    assert abs((want["p"] * residual).sum()) < TOLERANCE

    x = torch.randn(2, 3, W.shape[1], dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ (W + dW).T + layer.base_layer.bias, atol=TOLERANCE, rtol=TOLERANCE)

    held = {f"hiplora_{name}": getattr(layer, f"hiplora_{name}")["a"].detach().numpy() for name in
            ("A", "B", "C", *layer.basis("a"))}  # fmt: skip
    L_np, R_np = low_rank_factors(held, layer.hiplora_settings["a"])
    np.testing.assert_allclose(L_np @ R_np, dW.numpy(), atol=TOLERANCE)

    if fields["budget_mode"] == "soft":
        torch.testing.assert_close(layer.cost("a").detach(), want["cost"], atol=TOLERANCE, rtol=TOLERANCE)
    else:
        assert layer.tightness("a") <= 1 + numerics.gamma(9 * 9 + 4 + 3)

    before = layer.base_layer.weight.clone()
    largest = (before.abs().max() + dW.abs().max()).item()
    layer.merge(safe_merge=True)
    torch.testing.assert_close(layer(x), x @ (W + dW).T + layer.base_layer.bias, atol=TOLERANCE, rtol=TOLERANCE)
    layer.unmerge()
    # One sum and one difference, each rounded.
    torch.testing.assert_close(layer.base_layer.weight, before, atol=numerics.gamma(2) * largest, rtol=0)


@pytest.mark.parametrize("core", ["full", "diagonal"])
@pytest.mark.parametrize(
    ("mode", "epsilon", "geometry"),
    [("soft", 0.05, "weights"), ("hard", 0.01, "weights"), ("hard", 10.0, "weights"), ("hard", 0.01, "inputs")],
)
def test_gradients(core, mode, epsilon, geometry):
    fields = {"core": core, "budget_mode": mode, "epsilon": epsilon, "geometry": geometry}
    layer = exact(make_layer(torch.randn(6, 5), r=2, principal_rank=3, **fields))
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    names = ("A", "B", "C")
    values = [getattr(layer, f"hiplora_{name}")["a"].detach().clone().requires_grad_() for name in names]

    def outputs(x, *values):
        own = {f"hiplora_{name}.a": value for name, value in zip(names, values, strict=True)}
        y = torch.func.functional_call(layer, own, (x,))
        return y, torch.func.functional_call(_Cost(layer), {f"layer.{k}": v for k, v in own.items()}, ())

    assert torch.autograd.gradcheck(outputs, (x, *values), atol=1e-7)


class _Cost(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self):
        return self.layer.cost("a")


def test_base_output_gets_its_gradient():
    result = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in ((2, 3, 5), (2, 5), (6, 2), (3, 3), (3, 6), (3, 5))]
    assert torch.autograd.gradcheck(lambda result: AddUpdate.apply(result, *tensors, 0.5), (result,))


@pytest.mark.parametrize("core", ["full", "diagonal"])
@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_start_changes_nothing_and_has_finite_gradients(core, mode):
    layer = make_layer(torch.randn(8, 6), r=2, principal_rank=3, core=core, budget_mode=mode)
    x = torch.randn(4, 6)
    y = layer(x)
    assert torch.equal(y, layer.base_layer(x))
    (y.square().mean() + layer.cost("a")).backward()
    for values in (layer.hiplora_A, layer.hiplora_B, layer.hiplora_C):
        assert torch.isfinite(values["a"].grad).all()
    assert layer.hiplora_C["a"].grad.abs().max() > 0


@settings(max_examples=50, deadline=None)
@given(st.floats(-12, 12), st.sampled_from([1e-6, 0.05, 3.0]), st.sampled_from(["full", "diagonal"]))
def test_hard_budget_is_never_passed(exponent, epsilon, core):
    layer = make_layer(torch.randn(12, 9), r=2, principal_rank=5, core=core, budget_mode="hard", epsilon=epsilon)
    layer.hiplora_C["a"].data = 10**exponent * torch.randn_like(layer.hiplora_C["a"])
    # Two costs, each a float32 sum of 5 x 5 products of four, and a root and two products of their quotient.
    assert layer.tightness("a") <= 1 + numerics.gamma(5 * 5 + 4 + 3, "float32")
    if exponent < -8:
        raw = layer.hiplora_C["a"]
        raw = torch.diag(layer.hiplora_S["a"] * raw) if core == "diagonal" else raw
        assert torch.equal(layer.effective_core("a"), raw)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_base_keeps_float32_factors(dtype):
    layer = make_layer(torch.randn(24, 16).to(dtype), r=2, principal_rank=4)
    assert {tensor.dtype for name, tensor in layer.state_dict().items() if "hiplora" in name} == {torch.float32}
    Ut = layer.hiplora_Ut["a"]
    assert (Ut.double() @ Ut.T.double() - torch.eye(4)).abs().max() < numerics.kept_error(1)
    layer.hiplora_C["a"].data.normal_()
    x = torch.randn(5, 16, dtype=dtype)
    y = layer(x)
    assert y.dtype == dtype
    want = (x.float() @ layer.get_delta_weight("a").T + layer.base_layer(x).float()).to(dtype)
    # Sums in float32 may fall on either side of a rounding to 16 bits: one unit in the last place.
    error = update_error(layer, x, "float32", steps=2 * (24 + 16))
    torch.testing.assert_close(y, want, atol=error, rtol=2 * numerics.unit_roundoff(dtype))
    y.float().sum().backward()
    assert layer.hiplora_C["a"].grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fields", [{}, {"core": "diagonal", "budget_mode": "hard"}])
def test_a_cast_to_sixteen_bits_leaves_the_basis_as_it_is(dtype, fields):
    layer = make_layer(torch.randn(24, 16), r=2, principal_rank=4, **fields)
    for values in (layer.hiplora_B, layer.hiplora_C):
        values["a"].data.normal_(std=0.1)
    basis = {name: value.clone() for name, value in layer.named_buffers()}
    x = torch.randn(5, 16)
    want = layer(x) - layer.base_layer(x)
    layer.to(dtype)
    assert layer.base_layer.weight.dtype == layer.hiplora_A["a"].dtype == dtype
    found = dict(layer.named_buffers())
    assert found.keys() == basis.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == torch.float32 for name, value in basis.items())
    y = layer(x.to(dtype))
    assert y.dtype == dtype
    # Rounded: x, A, B, C, the basis, three products, and the sum with the output of the base.
    error = update_error(layer, x, dtype, steps=9, sums=False)
    error += numerics.unit_roundoff(dtype) * y.abs().max().item()
    torch.testing.assert_close((y - layer.base_layer(x.to(dtype))).float(), want.detach(), atol=error, rtol=0)
    (y.float().square().sum() + layer.cost("a")).backward()
    for values in (layer.hiplora_A, layer.hiplora_B, layer.hiplora_C):
        assert values["a"].grad.dtype == dtype
        assert values["a"].grad.abs().max() > 0
    layer.double().to(dtype).float()
    assert all(torch.equal(value, basis[name]) for name, value in layer.named_buffers())


def test_autocast_computes_in_its_dtype_but_projects_in_float32():
    layer = make_layer(torch.randn(64, 48), r=4, principal_rank=8)
    for values in (layer.hiplora_B, layer.hiplora_C):
        values["a"].data.normal_()
    x = torch.randn(7, 48)
    want = layer(x)
    want.square().sum().backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in layer.named_parameters() if parameter.grad is not None
    }
    layer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = layer(x)
        cost = layer.cost("a")
    assert got.dtype == torch.bfloat16
    assert cost.dtype == torch.float32
    assert torch.equal(cost, layer.cost("a"))
    # Rounded: x and W, or x, the factors, the core and three products; and both outputs and their sum.
    error = numerics.product_error(x, layer.base_layer.weight.T, dtype="bfloat16", steps=4, sums=False)
    error += update_error(layer, x, "bfloat16", steps=9, sums=False)
    torch.testing.assert_close(got.float(), want, atol=error, rtol=0)
    got.float().square().sum().backward()
    for name, parameter in layer.named_parameters():
        if parameter.grad is not None:
            difference = (parameter.grad - gradients[name]).norm() / gradients[name].norm()
            # Eight roundings lie on the way there and back, each a part of the norm.
            assert difference < numerics.gamma(8, "bfloat16"), name
    # A projection in bfloat16 would leave about 4e-3 of it inside the principal subspace.
    inside = layer.hiplora_Ut["a"] @ layer.hiplora_B["a"].grad
    assert inside.norm() < 2 * numerics.gamma(64 + 8, "float32") * layer.hiplora_B["a"].grad.norm()

    layer.hiplora_C["a"].data.zero_()
    layer.hiplora_A["a"].data += 1e3 * layer.hiplora_Vt["a"][:4]
    want = layer(x) - layer.base_layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = layer(x) - layer.base_layer(x)
    error = update_error(layer, x, "bfloat16", steps=9, sums=False)
    error += 2 * numerics.unit_roundoff("bfloat16") * layer(x).abs().max().item()
    # What float32 leaves of the thousandfold part that the projection takes off A.
    Vt, L = layer.hiplora_Vt["a"], layer.delta_factors("a")[0][:, 8:]
    left = numerics.product_error(layer.hiplora_A["a"], Vt.T, Vt, dtype="float32", steps=2)
    error += 2 * left * (x.abs().sum(1).max() * L.abs().sum(1).max()).item()
    torch.testing.assert_close(got.float(), want, atol=error, rtol=0)


def test_dropout_only_in_training():
    layer = make_layer(torch.randn(6, 5), r=2, principal_rank=3, lora_dropout=0.5, init_weights=False)
    layer.hiplora_C["a"].data.normal_()
    x = torch.randn(4, 5)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    error = update_error(layer, x, "float32", steps=2 * (6 + 5))
    error += numerics.gamma(2, "float32") * layer(x).abs().max().item()
    found = layer(x) - layer.base_layer(x)
    torch.testing.assert_close(found, x @ layer.get_delta_weight("a").T, atol=error, rtol=0)


def test_share_of_energy_picks_the_smallest_k():
    sigma = torch.tensor([3.0, 2.0, 1.0, 1.0, 0.5])
    P, _, Qt = torch.linalg.svd(torch.randn(7, 5), full_matrices=False)
    shares = torch.cumsum(sigma**2, 0) / sigma.square().sum()
    for k in range(1, 5):
        for share in (float(shares[k - 1]) - 0.01, float(shares[k - 1]) - 1e-4):
            layer = make_layer(P @ torch.diag(sigma) @ Qt, r=1, principal_rank=share)
            assert len(layer.hiplora_S["a"]) == k
            assert layer.hiplora_records["a"].entry["principal_rank"] == k


def test_record_names_the_weight():
    W = torch.randn(6, 5)
    assert make_layer(W, r=1, principal_rank=2).hiplora_records["a"].entry["hash"] == content_hash(W)
    assert make_layer(W, conv=True, r=1, principal_rank=2).hiplora_records["a"].entry["hash"] == content_hash(W)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 6}, r"r=6 is larger than x, which is 8 x 5"),
        ({"r": 2, "principal_rank": 6}, r"principal_rank=6 is larger than x, which is 8 x 5"),
    ],
)
def test_rank_larger_than_the_layer(fields, message):
    with pytest.raises(HiploraError, match=message):
        make_layer(torch.randn(8, 5), **fields)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (nn.Conv2d(3, 4, 1), "Conv2d"),
        (nn.Linear(4, 4, device="meta"), "not in memory"),
        (nn.Linear(4, 4).to(torch.float8_e4m3fn), "float8"),
    ],
)
def test_layers_that_cannot_be_adapted(base, message):
    config = HipLoraConfig(r=1, principal_rank=1)
    with pytest.raises(HiploraError, match=message):
        HipLoraLinear(
            base, "a", config=config, settings=module_settings(vars(config), ["x"])["x"], module="x", loading=False
        )


@pytest.mark.parametrize(("value", "message"), [(0.0, "all zeros"), (float("nan"), "NaN")])
def test_weights_without_a_spectrum(value, message):
    with pytest.raises(HiploraError, match=message):
        make_layer(torch.full((4, 3), value), r=1, principal_rank=1)


def test_merge_refuses_what_is_not_finite():
    layer = make_layer(torch.randn(6, 5), r=1, principal_rank=2)
    layer.hiplora_C["a"].data.fill_(float("inf"))
    before = layer.base_layer.weight.clone()
    with pytest.raises(HiploraError, match="NaN or infinite"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, before)
    assert not layer.merged
