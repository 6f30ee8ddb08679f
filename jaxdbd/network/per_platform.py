"""One function, computed in the form that suits the platform, with a gradient to match."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
from jaxtyping import Array


class Forms(NamedTuple):
    """Two ways to compute one function of (x, kernel, *settings), and the gradient of the first if not by autodiff."""

    cpu: Callable
    default: Callable
    cpu_gradient: Callable | None = None  # (x, kernel, dy, *settings) -> gradients of x and kernel
    settings: tuple = ()  # numbers


# Compiled once per forms and shapes, so that a network applied outside of jit does not compile at every call.
@partial(jax.jit, static_argnums=2, inline=True)
def per_platform(x: Array, kernel: Array, forms: Forms) -> Array:
    """One function in the form that suits the platform, chosen with its gradient when the program is lowered.

    So one exported program is right on every platform, and fast on each. Without a rule of its own, autodiff would keep
    the intermediate values of both forms.
    """
    return _with_gradient(x, kernel, forms)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_gradient(x, kernel, forms):
    cpu, default = (lambda x, kernel, f=f: f(x, kernel, *forms.settings) for f in (forms.cpu, forms.default))
    return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _forward(x, kernel, forms):
    return _with_gradient(x, kernel, forms), (x, kernel)


def _backward(forms, residuals, dy):
    def by_autodiff(function):
        return lambda x, kernel, dy: jax.vjp(lambda x, k: function(x, k, *forms.settings), x, kernel)[1](dy)

    def by_rule(x, kernel, dy):
        return forms.cpu_gradient(x, kernel, dy, *forms.settings)

    cpu = by_rule if forms.cpu_gradient else by_autodiff(forms.cpu)
    return jax.lax.platform_dependent(*residuals, dy, cpu=cpu, default=by_autodiff(forms.default))


_with_gradient.defvjp(_forward, _backward)
