"""A bilinear function that takes another form on each platform, differentiable to any order, forwards and in reverse.

A convolution y = f(x, kernel) is linear in both, so <f(x, kernel), y> is linear in all three of x, kernel and y. Its
gradients by y, by x and by kernel are the convolution itself and its two gradients; each is bilinear, and the transpose
of one by either operand is another. So one primitive holds all three, and its rules are complete. The form is looked up
when a program is lowered: a program for one platform holds nothing of another's, and one for several holds each.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

X, KERNEL, Y = range(3)  # the three spaces; an operation `of` one of them has the other two as operands, in this order


class Form(NamedTuple):
    """One way to compute a function of (x, kernel, *settings) that is linear in x and in kernel."""

    value: Callable  # (x, kernel, *settings) -> y
    by_x: Callable | None = None  # (kernel, dy, shape of x, *settings) -> gradient by x; None is by autodiff
    by_kernel: Callable | None = None  # (x, dy, shape of kernel, *settings) -> gradient by kernel


class Forms(NamedTuple):
    """The forms of one function; a platform without one of its own takes the default."""

    name: str
    default: Form
    cpu: Form | None = None
    cuda: Form | None = None

    def __repr__(self) -> str:
        return self.name  # all that a printed program should say


def bilinear(forms: Forms, x: Array, kernel: Array, *settings: Any) -> Array:
    """The function of (x, kernel, *settings), in the form of the platform; settings are numbers."""
    operands = jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)
    y = jax.eval_shape(lambda x, kernel: forms.default.value(x, kernel, *settings), *operands)
    return bilinear_p.bind(x, kernel, of=Y, forms=forms, settings=settings, spaces=(*operands, y), batches=())


def _others(of):
    return [space for space in (X, KERNEL, Y) if space != of]


def _operation(form, of, settings, spaces, a, b):
    """The gradient of <f(x, kernel), y> by the one it is `of`, from the other two."""
    if of == Y:
        return form.value(a, b, *settings)
    rule = (form.by_x, form.by_kernel)[of]
    if rule:
        return rule(a, b, spaces[of].shape, *settings).astype(spaces[of].dtype)
    by_one = (lambda x: form.value(x, a, *settings), lambda kernel: form.value(a, kernel, *settings))[of]
    return jax.linear_transpose(by_one, spaces[of])(b)[0]


def _over_batch(operation, of, has):
    batched = jax.vmap(operation, [0 if has[space] else None for space in _others(of)])
    return batched if has[of] else lambda a, b: batched(a, b).sum(axis=0)


def _compute(platform, a, b, *, of, forms, settings, spaces, batches):
    """The operation in the platform's form; `batches` are vmap's axes, outer first: size, and which spaces have it."""
    operation = partial(_operation, getattr(forms, platform) or forms.default, of, settings, spaces)
    for _, has in reversed(batches):
        operation = _over_batch(operation, of, has)
    return operation(a, b)


def _abstract(*_, of, spaces, batches, **__):
    sizes = tuple(size for size, has in batches if has[of])
    return ShapedArray(sizes + spaces[of].shape, spaces[of].dtype)


def _transpose(position, cotangent, *operands, of, **params):
    wanted, other = _others(of)[position], _others(of)[1 - position]
    elements = {of: cotangent, other: operands[1 - position]}
    return bilinear_p.bind(*(elements[space] for space in sorted(elements)), of=wanted, **params)


def _batch(operands, axes, *, of, batches, **params):
    size = next(a.shape[axis] for a, axis in zip(operands, axes, strict=True) if axis is not None)
    operands = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(operands, axes, strict=True)]
    has = [axis is not None for axis in axes]
    has.insert(of, True)
    return bilinear_p.bind(*operands, of=of, batches=((size, tuple(has)), *batches), **params), 0


bilinear_p = Primitive("bilinear")
# Outside of jit, each operation is compiled once for its shapes.
bilinear_p.def_impl(jax.jit(bilinear_p.bind, static_argnames=("of", "forms", "settings", "spaces", "batches")))
bilinear_p.def_abstract_eval(_abstract)
ad.defbilinear(bilinear_p, partial(_transpose, 0), partial(_transpose, 1))
batching.primitive_batchers[bilinear_p] = _batch
mlir.register_lowering(bilinear_p, mlir.lower_fun(partial(_compute, "default"), multiple_results=False))
for _platform in ("cpu", "cuda"):
    _rule = mlir.lower_fun(partial(_compute, _platform), multiple_results=False)
    mlir.register_lowering(bilinear_p, _rule, platform=_platform)
