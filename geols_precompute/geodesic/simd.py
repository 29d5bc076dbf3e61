"""Vectors of sixteen float32 for numba kernels.

numba has no vector type of its own. Here LLVM's ``<16 x float>`` becomes one: kernels write ``step * (a + b)`` on
values of type `Lanes`, and LLVM lowers each operation to what the processor has (one AVX-512 register, two of AVX2,
four of SSE or NEON). No operation is fused or reordered, so every processor gives the same bits.

Indices are flat: they count elements from the start of a C-contiguous array of any rank, and are not checked.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as _numba_intrinsic
from numba.extending import lower_builtin, models, register_model, type_callable

LANES = 16

_FLOAT = ir.FloatType()
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_INDICES = ir.VectorType(_INT64, LANES)
_POINTERS = ir.VectorType(_FLOAT.as_pointer(), LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)
_EVERY_LANE = ir.Constant(_MASK, [1] * LANES)
_BYTES = 4  # of a float32
_ALIGNMENT = _INT32(_BYTES)


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """``numba.extending.intrinsic``, typed; callers leave out the typing context."""
    return _numba_intrinsic(function)


class Lanes(types.Type):
    """The numba type of sixteen float32 values."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


lanes = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, lanes_type: Any) -> None:
        super().__init__(manager, lanes_type, _VECTOR)


def _register_operator(symbol: Callable[..., Any], instruction: str) -> None:
    """Let kernels write ``x <symbol> y`` for two vectors."""

    @type_callable(symbol)  # type: ignore[untyped-decorator]
    def typing(context: Any) -> Any:
        def typer(x: Any, y: Any) -> Any:
            return lanes if isinstance(x, Lanes) and isinstance(y, Lanes) else None

        return typer

    @lower_builtin(symbol, Lanes, Lanes)  # type: ignore[untyped-decorator]
    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return getattr(builder, instruction)(*arguments)


_register_operator(operator.add, "fadd")
_register_operator(operator.sub, "fsub")
_register_operator(operator.mul, "fmul")
_register_operator(operator.truediv, "fdiv")


def _address(context: Any, builder: Any, signature: Any, arguments: Any, pointee: Any) -> Any:
    """Point to element `index` of the array, where these are an intrinsic's first two arguments."""
    (array_type, *_), (array, index, *_) = signature.args, arguments
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), pointee.as_pointer())


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """Read the sixteen values that begin at a flat index; no alignment is assumed."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        loaded = builder.load(_address(context, builder, signature, arguments, _VECTOR))
        loaded.align = 4
        return loaded

    return lanes(array, types.int64), generate


@intrinsic
def store(typing_context: Any, array: Any, index: Any, values: Any) -> Any:
    """Write sixteen values from a flat index on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        stored = builder.store(arguments[2], _address(context, builder, signature, arguments, _VECTOR))
        stored.align = 4
        return context.get_dummy_value()

    return types.void(array, types.int64, lanes), generate


@intrinsic
def gather(typing_context: Any, array: Any, places: Any, shift: Any) -> Any:
    """Read sixteen values that lie apart: lane k that at flat index places[k] + shift; `places` are int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function_type = ir.FunctionType(_VECTOR, [_POINTERS, _INT32, _MASK, _VECTOR])
        name = f"llvm.masked.gather.v{LANES}f32.v{LANES}p0"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        addresses = _addresses(context, builder, signature, arguments)
        return builder.call(function, [addresses, _ALIGNMENT, _EVERY_LANE, ir.Constant(_VECTOR, ir.Undefined)])

    return lanes(array, places, types.int64), generate


@intrinsic
def scatter(typing_context: Any, array: Any, places: Any, shift: Any, values: Any) -> Any:
    """Write sixteen values apart, as `gather` reads them; of two lanes with one place the higher wins."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function_type = ir.FunctionType(ir.VoidType(), [_VECTOR, _POINTERS, _INT32, _MASK])
        name = f"llvm.masked.scatter.v{LANES}f32.v{LANES}p0"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        addresses = _addresses(context, builder, signature, arguments)
        builder.call(function, [arguments[3], addresses, _ALIGNMENT, _EVERY_LANE])
        return context.get_dummy_value()

    return types.void(array, places, types.int64, lanes), generate


def _addresses(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Point to elements places[k] + shift of the array, where these are an intrinsic's first three arguments."""
    (array_type, places_type, *_), (array, places, shift, *_) = signature.args, arguments
    data = builder.ptrtoint(context.make_array(array_type)(context, builder, array).data, _INT64)
    first = builder.add(data, builder.mul(shift, _INT64(_BYTES)))
    places_pointer = context.make_array(places_type)(context, builder, places).data
    indices = builder.load(builder.bitcast(places_pointer, _INDICES.as_pointer()))
    indices.align = 8
    offsets = builder.mul(indices, ir.Constant(_INDICES, [_BYTES] * LANES))
    return builder.inttoptr(builder.add(_in_every_lane(builder, first), offsets), _POINTERS)


def _in_every_lane(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    single = builder.insert_element(undefined, value, _INT32(0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES))


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of a flat index; an index outside the array is harmless."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte_pointer = ir.IntType(8).as_pointer()
        function_type = ir.FunctionType(ir.VoidType(), [byte_pointer, _INT32, _INT32, _INT32])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        pointer = _address(context, builder, signature, arguments, ir.IntType(8))
        read, keep_in_every_cache, data = _INT32(0), _INT32(3), _INT32(1)
        builder.call(function, [pointer, read, keep_in_every_cache, data])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@intrinsic
def broadcast(typing_context: Any, value: Any) -> Any:
    """Put one float32 into all lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _in_every_lane(builder, arguments[0])

    return lanes(types.float32), generate


@intrinsic
def lesser(typing_context: Any, candidate: Any, current: Any) -> Any:
    """Lane by lane the candidate where it is smaller, else the current value: a candidate of NaN never wins."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *arguments), *arguments)

    return lanes(lanes, lanes), generate


@intrinsic
def where_lesser(typing_context: Any, candidate: Any, current: Any, otherwise: Any) -> Any:
    """Lane by lane the candidate where it is smaller than the current value, else a third one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        candidate_, current_, otherwise_ = arguments
        return builder.select(builder.fcmp_ordered("<", candidate_, current_), candidate_, otherwise_)

    return lanes(lanes, lanes, lanes), generate


@intrinsic
def smaller_lanes(typing_context: Any, x: Any, y: Any) -> Any:
    """Return an integer whose bit k is set where x < y in lane k."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        smaller = builder.fcmp_ordered("<", *arguments)
        return builder.zext(builder.bitcast(smaller, ir.IntType(LANES)), ir.IntType(64))

    return types.int64(lanes, lanes), generate


def _unary(llvm_name: str) -> Callable[..., Any]:
    @intrinsic
    def function(typing_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            function_type = ir.FunctionType(_VECTOR, [_VECTOR])
            name = f"llvm.{llvm_name}.v{LANES}f32"
            return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)

        return lanes(lanes), generate

    return function


absolute = _unary("fabs")
square_root = _unary("sqrt")
