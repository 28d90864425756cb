"""Reads a network from an ONNX file and evaluates it in JAX.

Format: ONNX (onnx.ai), `onnx.proto`, whose field numbers stand below, in Protocol Buffers' wire format
(protobuf.dev, Encoding). Read here, since the package `onnx` is 31 MB and a newcomer needs 2 MB of weights;
evaluated in JAX, since the drivers trace objectives. Only the operators of OPERATORS exist, with the
attributes that PyTorch exports; anything else is a ValueError when the file is read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}  # TensorProto.DataType


class Node(NamedTuple):
    """One operation: its name, the names of what it takes and gives, its attributes by name."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Graph(NamedTuple):
    """A network: nodes in the order of evaluation, constants (numpy) by name, names of inputs and outputs."""

    nodes: tuple[Node, ...]
    constants: dict[str, np.ndarray]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


# Reading --------------------------------------------------------------------------------------------------


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """An integer in seven bits a byte, lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message's fields: an integer, or the bytes of everything else."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}[kind]
        if at + size > len(data):
            raise IndexError("a field is longer than its message")
        yield number, data[at : at + size]
        at += size


def _all(data: memoryview, number: int) -> list[Any]:
    return [value for n, value in _fields(data) if n == number]


def _text(data: memoryview) -> str:
    return bytes(data).decode()


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _integers(values: list[Any]) -> list[int]:
    """Of a repeated field, packed or not."""
    found = []
    for value in values:
        if isinstance(value, int):
            found.append(_signed(value))
            continue
        at = 0
        while at < len(value):
            one, at = _varint(value, at)
            found.append(_signed(one))
    return found


def _tensor(data: memoryview) -> tuple[str, np.ndarray]:
    """Name and value of a TensorProto that keeps its numbers as raw bytes."""
    shape = _integers(_all(data, 1))
    kind, name, raw = (_all(data, number) for number in (2, 8, 9))
    label = _text(name[0]) if name else ""
    if not raw or kind[0] not in TYPES:
        raise ValueError(f"tensor {label!r}: only raw data of types {', '.join(map(str, TYPES))} can be read")
    value = np.frombuffer(raw[0], np.dtype(TYPES[kind[0]]).newbyteorder("<")).reshape(shape)
    return label, value.astype(TYPES[kind[0]])


def _attribute(data: memoryview) -> tuple[str, Any]:
    """Name and value of an AttributeProto: a number, numbers or a tensor."""
    (name,), kind = _all(data, 1), _all(data, 20)[0]
    if kind == 1:
        value: Any = struct.unpack("<f", _all(data, 2)[0])[0]
    elif kind == 2:
        value = _signed(_all(data, 3)[0])
    elif kind == 4:
        value = _tensor(_all(data, 5)[0])[1]
    elif kind == 7:
        value = tuple(_integers(_all(data, 8)))
    else:
        raise ValueError(f"attribute {_text(name)!r} is of type {kind}, which cannot be read")
    return _text(name), value


def read(path: Path) -> Graph:
    """The graph of an ONNX file. Raises ValueError in one line for a file that is none, or that needs more
    than is here."""
    try:
        (body,) = _all(memoryview(path.read_bytes()), 7)
        constants = dict(_tensor(data) for data in _all(body, 5))
        nodes = []
        for data in _all(body, 1):
            inputs, outputs = (tuple(map(_text, _all(data, number))) for number in (1, 2))
            operator = _text(_all(data, 4)[0])
            attributes = dict(_attribute(a) for a in _all(data, 5))
            if operator == "Constant":
                constants[outputs[0]] = attributes["value"]
            elif operator not in OPERATORS:
                raise ValueError(f"operator {operator} is none of {', '.join(OPERATORS)}")
            else:
                nodes.append(Node(operator, inputs, outputs, attributes))
        named = [tuple(_text(_all(data, 1)[0]) for data in _all(body, number)) for number in (11, 12)]
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise ValueError(f"{path} cannot be read as an ONNX network: {error}") from None
    return Graph(tuple(nodes), constants, tuple(n for n in named[0] if n not in constants), named[1])


# Evaluating -----------------------------------------------------------------------------------------------
#
# What is known when the function is traced stays a numpy array, since a slice needs its bounds then.


def _known(*values: Any) -> bool:
    return all(isinstance(v, np.ndarray | np.generic) for v in values)


def _gather(data: Any, indices: Any, axis: int = 0) -> Any:
    if _known(indices) and np.ndim(indices) == 0:
        return data[(slice(None),) * axis + (int(indices),)]
    if _known(data, indices):
        return np.take(data, indices, axis)
    return jnp.take(data, indices, axis, mode="clip")


def _concat(*parts: Any, axis: int) -> Any:
    return jnp.concatenate(parts, axis)


def _unsqueeze(data: Any, axes: Any) -> Any:
    return jnp.expand_dims(data, tuple(axes.tolist()))


def _slice(data: Any, starts: Any, ends: Any, axes: Any) -> Any:
    cut = [slice(None)] * data.ndim
    for axis, start, end in zip(axes.tolist(), starts.tolist(), ends.tolist(), strict=True):
        cut[axis] = slice(start, end)
    return data[tuple(cut)]


def _divide(a: Any, b: Any) -> Any:
    # Sizes are whole and not negative, where rounding down and towards zero are the same.
    return a // b if np.issubdtype(a.dtype, np.integer) else a / b


def _gemm(a: Any, b: Any, c: Any, alpha: float = 1.0, beta: float = 1.0, transB: int = 0) -> Any:
    # On accelerators float32 products are rounded to fewer bits unless one asks.
    product = jnp.matmul(a, b.T if transB else b, precision=jax.lax.Precision.HIGHEST)
    return alpha * product + beta * c


def _normalise(
    x: Any, scale: Any, shift: Any, mean: Any, variance: Any, epsilon: float = 1e-5, momentum: float = 0.9
) -> Any:
    """Batch normalisation as at inference: with the moments of training."""
    return (x - mean) * (scale / np.sqrt(variance + np.float32(epsilon))) + shift


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": lambda a, b: a + b,
    "BatchNormalization": _normalise,
    "Cast": lambda x, to: x.astype(TYPES[to]),
    "Concat": _concat,
    "Constant": lambda value: value,
    "Div": _divide,
    "Exp": jnp.exp,
    "Gather": _gather,
    "Gemm": _gemm,
    "Log": jnp.log,
    "Mul": lambda a, b: a * b,
    "Relu": jax.nn.relu,
    "Shape": lambda x: np.array(x.shape, np.int64),
    "Sigmoid": jax.nn.sigmoid,
    "Slice": _slice,
    "Sub": lambda a, b: a - b,
    "Unsqueeze": _unsqueeze,
}


def evaluate(graph: Graph, inputs: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
    """The graph's outputs for its inputs, by name; shapes and types are those of the file."""
    values: dict[str, Any] = {**graph.constants, **inputs}
    for node in graph.nodes:
        # Of the nodes here each has one output.
        taken = [values[name] for name in node.inputs]
        values[node.outputs[0]] = OPERATORS[node.operator](*taken, **node.attributes)
    return tuple(values[name] for name in graph.outputs)
