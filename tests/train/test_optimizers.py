"""Optimizers: one step by hand, convergence on a quadratic, and what they must leave alone."""

import numpy as np
import pytest

import minivit as mv
from minivit.train.optimizers import OPTIMIZERS, decays


def parameter(values, dtype="float64"):
    return mv.nn.Parameter(np.array(values, dtype))


def with_gradient(p, g):
    p.grad = mv.Tensor(np.array(g, p.dtype))
    return p


def test_sgd_with_momentum_by_hand():
    p = with_gradient(parameter([1.0, 2.0]), [0.5, -1.0])
    opt = mv.train.SGD([p], lr=0.1, momentum=0.9)
    opt.step()
    np.testing.assert_allclose(p.numpy(), [0.95, 2.1], rtol=1e-15)
    with_gradient(p, [1.0, 0.0])
    opt.step()  # u = 0.9 * (0.5, -1) + (1, 0) = (1.45, -0.9)
    np.testing.assert_allclose(p.numpy(), [0.95 - 0.145, 2.1 + 0.09], rtol=1e-15)


def test_adam_by_hand():
    p = with_gradient(parameter([1.0]), [4.0])
    opt = mv.train.Adam([p], lr=0.1, betas=(0.9, 0.99), eps=0.0)
    opt.step()  # m̂ = g and v̂ = g², whatever g is: a step of lr
    np.testing.assert_allclose(p.numpy(), [0.9], rtol=1e-14)
    with_gradient(p, [-2.0])
    opt.step()
    m_hat = (0.9 * 0.1 * 4 + 0.1 * -2) / (1 - 0.81)
    v_hat = (0.99 * 0.01 * 16 + 0.01 * 4) / (1 - 0.99**2)
    np.testing.assert_allclose(p.numpy(), [0.9 - 0.1 * m_hat / np.sqrt(v_hat)], rtol=1e-13)


def test_adamw_decays_matrices_only():
    shapes = {"fc.weight": (2, 3), "fc.bias": (3,), "scale": (), "pos_embed": (1, 4, 2), "cls_token": (1, 1, 2)}
    params = {name: with_gradient(parameter(np.ones(shape)), np.zeros(shape)) for name, shape in shapes.items()}
    mv.train.AdamW(params.items(), lr=0.1, weight_decay=0.5).step()
    for name, p in params.items():
        np.testing.assert_allclose(p.numpy(), 1 - 0.1 * 0.5 if name == "fc.weight" else 1.0)
    vit = mv.models.ViT(image_size=8, patch_size=4, channels=1, embed_dim=8, depth=1, num_heads=2, num_classes=3)
    spared = {name for name, p in vit.named_parameters() if not decays(name, p) and p.ndim > 1}
    assert spared == {"cls_token", "pos_embed"}
    # the same without names: a generator of Tensors
    assert {p.shape for p in vit.parameters() if not decays("0", p) and p.ndim > 1} == {(1, 1, 8), (1, 5, 8)}


def test_decay_of_adam_goes_through_the_gradient():
    p = with_gradient(parameter([[2.0]]), [[0.0]])
    mv.train.Adam([p], lr=0.1, eps=0.0, weight_decay=0.5).step()
    np.testing.assert_allclose(p.numpy(), [[1.9]])  # g = λ θ, and Adam's first step is lr whatever g is


@pytest.mark.parametrize(("name", "options"), [
    ("sgd", {"lr": 0.05}), ("sgd", {"lr": 0.05, "nesterov": True}), ("adam", {"lr": 0.05}),
    ("adamw", {"lr": 0.05, "weight_decay": 0.0}),
])
def test_they_find_the_minimum_of_a_quadratic(name, options):
    rng = np.random.default_rng(0)
    target = rng.standard_normal((3, 2))
    curvature = np.array([1.0, 3.0])
    p, q = parameter(np.zeros((3, 2))), parameter(1.0)
    opt = OPTIMIZERS[name]([p, q], **options)
    for _ in range(600):
        opt.zero_grad()
        loss = ((p - target) * (p - target) * curvature).sum() + (q + 2.0) * (q + 2.0)
        loss.backward()
        opt.step()
    np.testing.assert_allclose(p.numpy(), target, atol=1e-3)
    np.testing.assert_allclose(q.numpy(), -2.0, atol=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_a_step_leaves_alone(name):
    p = parameter(np.ones((3, 2)), "float32")
    g = np.full((3, 2), 0.5, np.float32)
    p.grad = mv.Tensor(g)
    held = p.data
    opt = OPTIMIZERS[name]([p], lr=0.1)
    for _ in range(3):
        opt.step()
    assert p.dtype == np.float32
    assert all(getattr(opt, moment).dtype == np.float32 for moment in opt.moments)
    np.testing.assert_array_equal(g, 0.5)  # the gradient's array may be shared
    np.testing.assert_array_equal(held, 1.0)  # whoever holds the old values keeps them
    assert p.version == 3
    opt.zero_grad()
    assert p.grad is None


@pytest.mark.parametrize("threads_from", [10**9, 1])
def test_blocks_and_threads_do_not_show(monkeypatch, threads_from):
    monkeypatch.setattr("minivit.train.optimizers._WORTH_THREADS", threads_from)
    rng = np.random.default_rng(1)
    big = rng.standard_normal((300, 300))  # larger than a block
    p, rows = parameter(big), [parameter(row) for row in big]
    a, b = mv.train.AdamW([p], lr=0.1, weight_decay=0.0), mv.train.AdamW(rows, lr=0.1, weight_decay=0.0)
    for _ in range(2):
        g = rng.standard_normal(big.shape)
        with_gradient(p, g)
        for row, g_row in zip(rows, g):
            with_gradient(row, g_row)
        a.step()
        b.step()
    np.testing.assert_array_equal(p.numpy(), np.stack([row.numpy() for row in rows]))


def test_no_gradient_is_a_zero_gradient():
    p, q = with_gradient(parameter([1.0]), [1.0]), parameter([1.0])
    mv.train.SGD([p, q], lr=0.1).step()
    np.testing.assert_array_equal(q.numpy(), [1.0])
    with pytest.raises(RuntimeError, match="backward"):
        mv.train.SGD([q]).step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_goes_on_to_the_bit(name):
    rng = np.random.default_rng(2)
    start, gradients = rng.standard_normal((4, 3)), rng.standard_normal((6, 4, 3))

    def steps(p, opt, gs):
        for g in gs:
            with_gradient(p, g)
            opt.step()

    p = parameter(start)
    steps(p, OPTIMIZERS[name]([("w", p)]), gradients)
    q = parameter(start)
    first = OPTIMIZERS[name]([("w", q)])
    steps(q, first, gradients[:2])
    state = first.state_dict()
    assert all(isinstance(a, np.ndarray) for a in state.values())
    second = OPTIMIZERS[name]([("w", q)])
    second.load_state_dict(state)
    steps(q, second, gradients[2:])
    np.testing.assert_array_equal(q.numpy(), p.numpy())
    with pytest.raises(ValueError, match=r"'\w+\.w' is missing"):
        second.load_state_dict({"t": np.array(1)})
    with pytest.raises(ValueError, match="belongs to no"):
        second.load_state_dict(state | {"more": np.zeros(1)})
    with pytest.raises(ValueError, match="shape"):
        second.load_state_dict(state | {f"{second.moments[0]}.w": np.zeros(3)})


def test_a_model_that_moves_takes_its_optimizer_along(standin):
    model = mv.nn.Linear(3, 2)
    opt = mv.train.AdamW(model.parameters(), lr=0.1)
    twin = mv.nn.Linear(3, 2)
    twin_opt = mv.train.AdamW(twin.parameters(), lr=0.1)
    x = np.random.default_rng(3).standard_normal((4, 3)).astype(np.float32)
    for device in ("cpu", "cuda"):
        model.to(device)
        for m, o, images in ((model, opt, mv.Tensor(x).to(device)), (twin, twin_opt, mv.Tensor(x))):
            o.zero_grad()
            y = m(images)
            (y * y).sum().backward()
            assert mv.train.clip_grad_norm(m.parameters(), 1.0) > 1
            o.step()
    assert model.weight.device == "cuda"
    np.testing.assert_allclose(model.weight.numpy(), twin.weight.numpy(), rtol=1e-6)
    np.testing.assert_allclose(opt.state_dict()["m.0"], twin_opt.state_dict()["m.0"], rtol=1e-5, atol=1e-8)


def test_clip_grad_norm():
    p, q, r = with_gradient(parameter([3.0]), [3.0]), with_gradient(parameter([[0.0]]), [[4.0]]), parameter([1.0])
    g = p.grad.data
    assert mv.train.clip_grad_norm([p, q, r], None) == pytest.approx(5)
    assert mv.train.clip_grad_norm([p, q, r], 10.0) == pytest.approx(5)
    assert p.grad.data is g
    assert mv.train.clip_grad_norm([p, q, r], 1.0) == pytest.approx(5)
    np.testing.assert_allclose([float(p.grad.data[0]), float(q.grad.data[0, 0])], [0.6, 0.8])
    np.testing.assert_array_equal(g, [3.0])
    assert r.grad is None
    huge = with_gradient(parameter([0.0, 0.0], "float32"), [3e30, 4e30])
    with np.errstate(over="ignore"):
        assert mv.train.clip_grad_norm([huge], 1.0) == pytest.approx(5e30)
    np.testing.assert_allclose(huge.grad.numpy(), [0.6, 0.8], rtol=1e-6)
    with pytest.raises(ValueError, match="max_norm"):
        mv.train.clip_grad_norm([p], 0)


def test_clip_grad_norm_of_gradients_whose_squares_vanish():
    p = mv.nn.Parameter(np.zeros(4, "float32"))
    p.grad = mv.Tensor(np.full(4, 1e-25, "float32"))
    assert mv.train.clip_grad_norm([p], 1e-26) == pytest.approx(2e-25, rel=1e-6)
    np.testing.assert_allclose(p.grad.numpy(), 5e-27, rtol=1e-5)


@pytest.mark.parametrize("grad", [mv.Tensor(np.ones(4)), mv.Tensor(np.ones((1, 2))), np.ones(2)])
def test_a_gradient_of_another_shape_is_refused(grad):
    a, b = mv.nn.Parameter(np.zeros(2)), mv.nn.Parameter(np.zeros(4))
    opt = mv.train.SGD([a, b])
    a.grad, b.grad = grad, mv.Tensor(np.ones(2))
    with pytest.raises(ValueError, match=r"step: the grad of '0': expected a Tensor of shape \(2,\), got"):
        opt.step()
    assert not a.numpy().any()
    assert opt.t == 0


def test_two_parameters_of_one_name_are_refused():
    a, b = mv.nn.Linear(2, 2), mv.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="params: two parameters have one name"):
        mv.train.Adam([*a.named_parameters(), *b.named_parameters()])


def test_clip_grad_norm_on_a_gpu(standin):
    def pair():
        params = [mv.Tensor(standin.zeros(2, "float32"), requires_grad=True) for _ in range(2)]
        for p, g in zip(params, (3e30, 4e30)):
            p.grad = mv.Tensor(standin.asarray([g, 0.0], "float32"))
        return params

    for max_norm, expected in ((None, 3e30), (1e31, 3e30), (1.0, 0.6)):
        p, q = pair()
        norm = mv.train.clip_grad_norm([p, q], max_norm)
        assert float(norm) == pytest.approx(5e30)
        assert p.grad.dtype == np.float32
        assert float(p.grad.data[0]) == pytest.approx(expected)
    p, q = pair()
    p.grad = mv.Tensor(p.grad.data * np.inf)
    mv.train.clip_grad_norm([p, q], 1.0)
    assert float(q.grad.data[0]) == pytest.approx(4e30)  # a norm that is not finite scales nothing
    assert mv.train.clip_grad_norm([], 1.0) == 0


@pytest.mark.parametrize(("make", "message"), [
    (lambda p: mv.train.AdamW(p), "one Tensor"),
    (lambda p: mv.train.AdamW([]), "there are none"),
    (lambda p: mv.train.AdamW([p, p]), "twice"),
    (lambda p: mv.train.AdamW([p * 2]), "not one"),
    (lambda p: mv.train.AdamW([mv.Tensor(np.ones(2))]), "not one"),
    (lambda p: mv.train.AdamW([p], lr=-1), "lr"),
    (lambda p: mv.train.AdamW([p], lr=float("nan")), "lr"),
    (lambda p: mv.train.AdamW([p], betas=(0.9, 1.0)), "betas"),
    (lambda p: mv.train.SGD([p], momentum=1.5), "momentum"),
    (lambda p: mv.train.AdamW([p, parameter([1.0], "float32")]), "one dtype"),
])
def test_bad_arguments(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(parameter([1.0]))
