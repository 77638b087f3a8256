"""Loops that numba compiles, and the numpy references that run until it has.

Importing numba and its first loop take a process half a second or more, and compiling without a cache takes several; a
reference takes some microseconds a row. So references run first, and numba is loaded once they have taken what that is
worth: the first batch waits for nothing, short programs never load numba, and long ones pay at most about double. Rule:
a loop and its reference give equal results, so no batch depends on when a process changes from one to the other.

A loop may be called from any thread. `data.compiling` loads numba in the background; where no rows are read, as in a
forecast, the thread that calls references loads it. Where numba cannot be imported, references run for good.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache, cached_property, wraps
from hashlib import blake2s
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

_WORTH = 0.3  # seconds of references, in all threads, after which numba is loaded
_WORTH_LOOPS = 0.05  # the same where numba is there, and only loops have to be compiled or found in its cache
_LOG = logging.getLogger(__name__)


class NotCompiledError(Exception):
    """Raised by a loop that was called before it was compiled."""


class OfNumba:
    """Something that numba makes for loops to use. It stands for it until numba is imported.

    Args:
        make: module numba -> what the name of this object means in a compiled loop.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make, self.module = cache(make), make.__module__


class Loop:
    """A function that numba compiles: without the GIL, with IEEE arithmetic, cached on disk where that is possible.

    Names in the function may be those of other loops of its module, and of `OfNumba`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._run: Callable[..., Any] | None = None
        self._refused: dict[tuple[Any, ...], tuple[Any, ...]] = {}  # kinds of arguments -> such arguments, without data

    def __call__(self, *arguments: Any) -> Any:
        """Return what the function returns.

        Raises:
            NotCompiledError: it is not compiled yet. `load` compiles it for arguments of these types.
        """
        if self._run is not None:
            return self._run(*arguments)
        if _state.broken is None:
            shown = tuple(_Array.of(each) if isinstance(each, np.ndarray) else each for each in arguments)
            self._refused[tuple(each if isinstance(each, _Array) else type(each) for each in shown)] = shown
            _state.wanted[self] = None
            if _state.at_once:
                load()
                return self._run(*arguments) if self._run is not None else self(*arguments)
        raise NotCompiledError

    @cached_property
    def dispatcher(self) -> Any:
        """The function as numba has it, which compiles it when it is called."""
        numba, function = sys.modules["numba"], self.function
        names = {
            name: function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__
        }
        names = {name: _in_numba(numba, value) for name, value in names.items()}
        names |= {"__name__": function.__module__, "__builtins__": builtins}
        loop = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
        loop.__qualname__, loop.__doc__ = function.__qualname__ + self._of_other_files(), function.__doc__
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}
        try:
            return numba.njit(cache=True, **options)(loop)
        except RuntimeError:  # numba found no writable directory for its cache
            return numba.njit(**options)(loop)

    def _of_other_files(self) -> str:
        """Return a mark of what this loop uses of other files; numba's cache compares a loop's own file only."""
        modules, left = set[str](), [self.function]
        while left:
            function = left.pop()
            modules.add(function.__module__)
            for name in function.__code__.co_names:
                value = function.__globals__.get(name)
                if isinstance(value, Loop) and value.function is not function:
                    left.append(value.function)
                elif isinstance(value, OfNumba):
                    modules.add(value.module)
        digest = blake2s()
        for module in sorted(modules - {self.function.__module__}):
            digest.update(inspect.getsource(sys.modules[module]).encode())
        return f"_{digest.hexdigest()[:16]}" if len(modules) > 1 else ""

    def compile(self) -> None:
        """Compile the function for the calls that were refused, or load it from numba's cache. Numba was imported."""
        typeof = sys.modules["numba"].typeof
        while self._refused:
            kinds, arguments = next(iter(self._refused.items()))
            types = [each.in_numba() if isinstance(each, _Array) else typeof(each) for each in arguments]
            self.dispatcher.compile(tuple(types))
            self._refused.pop(kinds, None)
        self._run = self.dispatcher


class _Array(NamedTuple):
    """What numba compiles a loop for: an array without its data."""

    dtype: np.dtype[Any]
    ndim: int
    layout: str
    readonly: bool
    aligned: bool

    @classmethod
    def of(cls, array: np.ndarray[Any, Any]) -> _Array:
        flags = array.flags
        layout = "C" if flags.c_contiguous else "F" if flags.f_contiguous else "A"
        return cls(array.dtype, array.ndim, layout, not flags.writeable, flags.aligned)

    def in_numba(self) -> Any:
        numba = sys.modules["numba"]
        element = numba.from_dtype(self.dtype)
        return numba.types.Array(element, self.ndim, self.layout, readonly=self.readonly, aligned=self.aligned)


def _in_numba(numba: Any, value: Any) -> Any:
    if isinstance(value, Loop):
        return value.dispatcher
    return value.make(numba) if isinstance(value, OfNumba) else value


def compile_loop(function: Callable[..., Any]) -> Loop:
    """Return `function` as a loop, which raises `NotCompiledError` until it is compiled."""
    return Loop(function)


# --- a loop beside its reference ------------------------------------------------------------------------------------


def compiled(
    reference: Callable[..., Any], *, small: Callable[..., bool] | None = None
) -> Callable[[Callable[..., Any]], Any]:
    """Compile the decorated loop; `reference` runs until it is compiled.

    >>> @compiled(lambda x: x + 1)
    ... def next_number(x):
    ...     return x + 1
    >>> next_number(1)
    2

    Args:
        reference: takes the same arguments, and returns the same.
        small: whether a call with these arguments is quick enough by the reference; others wait for numba.
    """
    return lambda function: wraps(function)(beside(reference, small=small)(Loop(function)))


def beside(
    reference: Callable[..., Any], *, small: Callable[..., bool] | None = None
) -> Callable[[Callable[..., Any]], Any]:
    """Run `reference` as long as loops that the decorated function calls are not compiled.

    The function must change nothing before it has called a loop. Arguments are those of `compiled`.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except NotCompiledError:
                pass
            if small is not None and not small(*arguments) and _state.broken is None:
                load()
                return call(*arguments)
            return _by_reference(reference, arguments)

        return wraps(function)(call) if isinstance(function, FunctionType) else call

    return decorate


def _by_reference(reference: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    began = time.perf_counter()
    result = reference(*arguments)
    _state.spent += time.perf_counter() - began
    if _state.spent >= (_WORTH_LOOPS if _state.started else _WORTH) and _state.broken is None:
        _state.load()
    return result


# --- loading numba --------------------------------------------------------------------------------------------------


class _State:
    """What this process has loaded so far. A forked child goes on from its parent's.

    Attributes:
        spent: seconds that references have run.
        wanted: loops that were called before they were compiled.
        started: whether numba was imported and has compiled something.
        at_once: whether a loop is compiled at its first call.
        broken: why nothing is compiled; None if something may be.
        load: loads what is wanted, now or in the background.
        whole: a context that no fork of this process falls into.
    """

    def __init__(self) -> None:
        self.spent = 0.0
        self.wanted: dict[Loop, None] = {}
        self.started = self.at_once = False
        self.broken: str | None = None
        self.load: Callable[[], Any] = load
        self.whole: Callable[[], AbstractContextManager[Any]] = nullcontext


def parts() -> Iterator[Callable[[], None]]:
    """Yield what is to be done, one part after the other, until all loops that were called are compiled.

    A part takes up to a second. A process must not be forked while another thread runs one: an import, or numba's
    compiler, would keep its lock in the child.
    """
    if not _state.started:
        began = time.perf_counter()
        for part in (_import_llvm, _import_numba, _import_arrays, _start_numba):
            yield part
            if _state.broken is not None:
                return
        _LOG.debug("numba was loaded in %.2f s; references had run %.2f s", time.perf_counter() - began, _state.spent)
    while _state.broken is None and _state.wanted:
        loop = next(iter(list(_state.wanted)))
        yield loop.compile
        _state.wanted.pop(loop, None)
        _LOG.debug("%s runs compiled", loop.function.__qualname__)


def load() -> None:
    """Compile all loops that were called, in this thread. Where numba cannot be imported, references run for good."""
    for part in parts():
        try:
            with _state.whole():
                part()
        except Exception as error:  # references return the same
            if _state.at_once and not isinstance(error, ImportError):
                raise  # a test would compare references with themselves
            give_up(error)
            return


def give_up(error: Exception) -> None:
    """Let references run for good: numba has raised `error`."""
    _state.broken = f"{type(error).__name__}: {error}"
    _state.wanted.clear()
    if not isinstance(error, ImportError):
        _LOG.warning("numba failed, so numpy makes the batches, which takes longer: %s", _state.broken, exc_info=error)


def load_by(begin: Callable[[], Any], *, whole: Callable[[], AbstractContextManager[Any]]) -> None:
    """Call `begin` where loading is worth it, again and again until all is loaded; it must not wait for that.

    In the context `whole`, this process is not forked.
    """
    _state.load, _state.whole = begin, whole


def compile_at_once() -> None:
    """Compile each loop at its first call from now on, and what was called before now: for tests and measurements."""
    _state.at_once = True
    load()


def load_for_children() -> None:
    """Load numba now, as references would when it is worth it: processes that are forked later then have it."""
    if not _state.started and _state.broken is None:
        _state.load()


def without() -> str | None:
    """Return why references run for good; None if they do not."""
    return _state.broken


def _import_llvm() -> None:
    importlib.import_module("llvmlite.binding")


def _import_numba() -> None:
    importlib.import_module("numba")


def _import_arrays() -> None:
    """Let numba take it for granted that scipy has BLAS: to import that takes as long as numba, and no loop uses it.

    numba asks once, when it is first used, and where BLAS is used, it asks again.
    """
    if "scipy" not in sys.modules:  # numba has looked for it
        return
    with suppress(ImportError, AttributeError):  # of another version of numba, which then asks
        linalg: Any = importlib.import_module("numba.np.linalg")
        asks, linalg.ensure_blas = linalg.ensure_blas, lambda: None
        try:
            arrays: Any = importlib.import_module("numba.np.arraymath")
            arrays.ensure_blas = asks
        finally:
            linalg.ensure_blas = asks


def _start_numba() -> None:
    sys.modules["numba"].njit(lambda x: x)(1)  # loads what numba needs for any loop
    _state.started = True


_state = _State()
