"""Networks whose code is the user's: what of them a file keeps, and the function ``file.py:name`` that makes
them again.

A file holds tensors and plain data, never code. So a network of ours is built from its description, any other
by the user's own function, which runs only where the user names it.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stillhouse.core.errors import StillhouseError, require, required
from stillhouse.models.taps import Network

CODE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")
PACKAGE = Path(__file__).parents[1]
AROUND = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def names_code(source: object) -> bool:
    """Whether a text names code, as ``net.py:make_teacher`` does, and no folder or file of a model."""
    return isinstance(source, str) and ".py:" in source or str(source).endswith(".py")


def imported(file: Path, package: str) -> ModuleType:
    """The module of a user's file, whose code runs; whatever that raises is left to the caller.

    Arguments:
        file: which is there.
        package: what stands before its name among the modules, where dataclasses look it up.

    Returns:
        The module; raises :class:`StillhouseError` for what is no Python file.
    """
    name = f"{package}.{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise StillhouseError(f"'{file}' is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def run_code(source: str) -> Any:
    """What a function in a user's file returns; to be called only with a name that the user gave just now.

    The file may import others from its folder.

    Arguments:
        source: ``FILE.py:NAME``: a function without arguments, a class, or an object.

    Returns:
        The function's result; an object that is no function as it is.

    Raises:
        StillhouseError: for a missing file or name, and for whatever goes wrong in it, with the line.
    """
    found = CODE.fullmatch(source)
    found = required(
        found, f"Code is named as FILE.py:FUNCTION, net.py:make_teacher for example, not '{source}'."
    )
    path, name = Path(found["file"]), found["name"]
    require(path.is_file(), f"There is no file '{path}' to take {name} from.")
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # for good: a network may import when it is called
        sys.path.append(folder)
    try:
        module = imported(path, "stillhouse_own")
        require(hasattr(module, name), f"There is no {name} in '{path}'.")
        made = getattr(module, name)
        return made() if callable(made) and not isinstance(made, nn.Module) else made
    except StillhouseError:
        raise
    except Exception as error:  # whatever the user's file does wrong becomes one sentence
        raise StillhouseError(f"'{source}' fails: {failure(error, path)}.") from error


def failure(error: Exception, file: Path | None = None) -> str:
    """What went wrong in a user's code, and where, as the end of a sentence.

    Arguments:
        error: that was raised.
        file: whose last line on the way is named; None for the last file that is no installed package's.

    Returns:
        Such as ``KeyError: 'tokens' (net.py, line 12)``.
    """
    frames = traceback.extract_tb(error.__traceback__)
    inside = [
        f
        for f in frames
        if (Path(f.filename).name == file.name if file else "site-packages" not in f.filename)
        and PACKAGE not in Path(f.filename).parents
    ]
    line = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    place = f" ({Path(inside[-1].filename).name}, line {inside[-1].lineno})" if inside else ""
    return f"{type(error).__name__}{': ' if line else ''}{line}{place}"


def raised_in(error: Exception, code: object) -> bool:
    """Whether an error, none of this library's own, passed through the file of a user's code.

    Arguments:
        error: that was raised.
        code: ``FILE.py:NAME``; anything else gives False.

    Returns:
        True if it did.
    """
    found = CODE.fullmatch(code) if isinstance(code, str) else None
    if found is None or isinstance(error, StillhouseError):
        return False
    file = Path(found["file"]).name
    return any(Path(f.filename).name == file for f in traceback.extract_tb(error.__traceback__))


def is_own(net: nn.Module) -> bool:
    """Whether a network is none of this library's, so that its code must be named to open it."""
    return not isinstance(net, Network)


def unwrapped(net: nn.Module) -> nn.Module:
    """A network without what ``torch.compile`` and data-parallel wrappers put around it, which change the
    names of its weights."""
    while isinstance(net, AROUND) or hasattr(net, "_orig_mod"):
        inner: Any = net
        net = inner.module if isinstance(net, AROUND) else inner._orig_mod
    return net


def require_whole(net: nn.Module) -> None:
    """Refuse a network that could not be saved and opened again as it is.

    Arguments:
        net: of a user.

    Raises:
        StillhouseError: for weights without values (on the meta device, of lazy modules), a state that is no
            tensor, and modules or parameters in a plain list or dict, which torch neither trains nor saves.
    """
    what = type(net).__name__
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        lazy = is_lazy(tensor)
        require(not lazy, f"'{name}' of {what} has no shape yet; call the network once, then give it.")
        require(
            not tensor.is_meta, f"'{name}' of {what} is on the meta device, without values; load its weights."
        )
        dense = tensor.layout == torch.strided and not tensor.is_quantized
        require(dense, f"'{name}' of {what} is sparse or quantised, which a safetensors file can't hold.")
    for name, value in net.state_dict().items():
        require(
            torch.is_tensor(value),
            f"'{name}' in the state of {what} is a {type(value).__name__}, no tensor, and can't be saved.",
        )
    known = {id(m) for m in net.modules()} | {id(p) for p in net.parameters()}
    for place, module in net.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_") or not isinstance(value, list | tuple | dict):
                continue
            items = value.values() if isinstance(value, dict) else value
            hidden = [v for v in items if isinstance(v, nn.Module | nn.Parameter) and id(v) not in known]
            where = f"{place}.{name}" if place else name
            require(
                not hidden,
                f"'{where}' of {what} is a plain {type(value).__name__} of modules, which torch neither "
                "trains "
                "nor saves; make it an nn.ModuleList, nn.ModuleDict or nn.ParameterList.",
            )


def loose_tensors(net: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """The tensors of a network that its ``state_dict`` lacks: buffers that are not persistent, and attributes
    that were never registered, such as fixed random frequencies.

    Arguments:
        net: of a user.

    Yields:
        The full name, the module, the name in it, and the tensor.
    """
    for place, module in net.named_modules():
        held = {k: v for k, v in vars(module).items() if torch.is_tensor(v)}
        held |= {
            k: b for k, b in module.named_buffers(recurse=False) if k in module._non_persistent_buffers_set
        }
        for name, value in held.items():
            if value.layout == torch.strided and not value.is_meta and not value.is_quantized:
                yield (f"{place}.{name}" if place else name), module, name, value


def kept(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Tensor]]:
    """What a file keeps of a user's network.

    Arguments:
        net: the network.

    Returns:
        Its ``state_dict`` without second names of one tensor; these second names and the first ones; and the
        tensors that it lacks, see :func:`loose_tensors`. All as they lie in the network.
    """
    first: dict[Any, str] = {}
    weights: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in net.state_dict().items():
        where = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and where in first:
            shared[name] = first[where]
        else:
            first[where] = name
            weights[name] = tensor
    return weights, shared, {name: tensor for name, _, _, tensor in loose_tensors(net)}


def fill(net: nn.Module, weights: Mapping[str, Tensor], loose: Mapping[str, Tensor]) -> None:
    """Put what :func:`kept` gave into a network of the same code, in place.

    Arguments:
        net: freshly made.
        weights: its whole ``state_dict``, in the same names and shapes.
        loose: the tensors beside it; one that the network holds in another shape, or not at all, is a cache,
            and left to the network.
    """
    net.load_state_dict(dict(weights))
    restore_loose(net, loose)


def restore_loose(net: nn.Module, loose: Mapping[str, Tensor]) -> None:
    """Set the tensors beside the state of a network, in place, as :func:`fill` does.

    Arguments:
        net: the network.
        loose: by full name, see :func:`loose_tensors`.
    """
    for full, module, name, value in list(loose_tensors(net)):
        saved = loose.get(full)
        if saved is not None and saved.shape == value.shape:
            setattr(module, name, saved.to(value.device, value.dtype))
