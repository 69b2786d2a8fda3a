"""Modules as files that run without this library: ONNX, and ``torch.export``'s own ``.pt2``."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.core.errors import StillhouseError, extra, require

ABOUT = "stillhouse"  # under this name a file keeps its description
FORMS = {"onnx": ".onnx", "torch": ".pt2"}


def graph_of(module: nn.Module, inputs: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    """A module traced for any number of rows.

    Arguments:
        module: called as ``module(*inputs.values())``.
        inputs: examples by name, two rows or more each.

    Returns:
        The program; raises :class:`StillhouseError` for a network whose graph depends on the values it is
        given.
    """
    rows = torch.export.Dim("rows", min=1)
    dims = ({0: rows},) * len(inputs)
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(module.eval(), tuple(inputs.values()), dynamic_shapes=(dims,))
    except Exception as error:  # torch.export raises as many kinds of error as there are reasons
        line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise StillhouseError(
            f"This network can't be written as a graph: {line.strip().rstrip('.')}."
        ) from error


def onnx_bytes(
    program: torch.export.ExportedProgram, names: Sequence[str], about: Mapping[str, Any]
) -> bytes:
    """The graph as an ONNX file; its output is called ``sample``, its first dimension ``rows``.

    Arguments:
        program: of :func:`graph_of`.
        names: of the inputs, in order.
        about: plain data, kept in the file's metadata.

    Returns:
        The file's bytes.
    """
    extra("onnx", "control"), extra("onnxscript", "control")
    with torch.no_grad(), _quiet():
        made = torch.onnx.export(
            program, dynamo=True, input_names=list(names), output_names=["sample"], verbose=False
        )
    assert made is not None
    proto = made.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = ABOUT, json.dumps(about)
    written: bytes = proto.SerializeToString()
    return written


def torch_bytes(program: torch.export.ExportedProgram, about: Mapping[str, Any]) -> bytes:
    """The graph as a ``.pt2`` file, for ``torch.export.load(path).module()``.

    Arguments:
        program: of :func:`graph_of`.
        about: plain data, kept as an extra file.

    Returns:
        The file's bytes.
    """
    kept = io.BytesIO()
    torch.export.save(program, kept, extra_files={ABOUT: json.dumps(about)})
    return kept.getvalue()


def opened(source: bytes | str | Path, form: str) -> Callable[..., Tensor]:
    """The function that a written graph is.

    Arguments:
        source: the file, or its bytes.
        form: ``torch`` or ``onnx``.

    Returns:
        ``run(*inputs) -> sample``, all on the CPU.
    """
    source = source if isinstance(source, bytes) else Path(source).read_bytes()
    if form == "torch":
        return torch.export.load(io.BytesIO(source)).module()
    runtime = extra("onnxruntime", "control")
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [part.name for part in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        require(
            len(inputs) == len(names),
            f"This graph takes {', '.join(names)}: {len(names)} inputs, not {len(inputs)}.",
        )
        return torch.from_numpy(
            session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})[0]
        )

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' notes on their own inner workings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
