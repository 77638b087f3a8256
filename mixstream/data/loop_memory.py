"""Memory by its address, for compiled loops: what numba has no function for.

A loop that uses these keeps its arrays and mappings alive, and checks bounds itself.
"""

from typing import Any

from mixstream.plan.compiled import OfNumba


def _pointer(numba: Any) -> Any:
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:  # pragma: no cover - compiled
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], cgutils.voidptr_t)

        return types.voidptr(address), generate  # signature, code generator

    return pointer


def _memcpy(numba: Any) -> Any:
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic
    def memcpy(typing_context: Any, to: Any, source: Any, size: Any) -> Any:  # pragma: no cover - compiled
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            to, source = (builder.inttoptr(address, cgutils.voidptr_t) for address in arguments[:2])
            cgutils.raw_memcpy(builder, to, source, arguments[2], 1)
            return context.get_dummy_value()

        return types.none(types.uint64, types.uint64, types.int64), generate

    return memcpy


def _prefetch(numba: Any) -> Any:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic
    def prefetch(typing_context: Any, address: Any) -> Any:  # pragma: no cover - compiled
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            byte, int32 = cgutils.voidptr_t, ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [byte, int32, int32, int32])
            function = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
            pointer = builder.inttoptr(arguments[0], byte)
            builder.call(function, [pointer, int32(0), int32(3), int32(1)])  # to read, in all caches, data
            return context.get_dummy_value()

        return types.none(types.uint64), generate

    return prefetch


def _streamed(numba: Any) -> Any:
    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic

    @intrinsic
    def streamed(typing_context: Any, to: Any, source: Any, stored: Any) -> Any:  # pragma: no cover - compiled
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            narrow, wide = (ir.VectorType(ir.IntType(bits), 8) for bits in (stored.dtype.bitwidth, 64))
            values = builder.load(builder.inttoptr(arguments[1], narrow.as_pointer()))
            values.align = 1
            if narrow != wide:
                values = (builder.sext if stored.dtype.signed else builder.zext)(values, wide)
            store = builder.store(values, builder.inttoptr(arguments[0], wide.as_pointer()))
            store.align = 64
            store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
            return context.get_dummy_value()

        return types.none(types.uint64, types.uint64, stored), generate

    return streamed


def _fence(numba: Any) -> Any:
    from numba.core import types
    from numba.extending import intrinsic

    @intrinsic
    def fence(typing_context: Any) -> Any:  # pragma: no cover - compiled
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.none(), generate

    return fence


pointer: Any = OfNumba(_pointer)
"""In a loop: an address as a pointer."""
memcpy: Any = OfNumba(_memcpy)
"""In a loop: copies bytes from one address to another."""
prefetch: Any = OfNumba(_prefetch)
"""In a loop: lets the processor fetch the line at an address, which need not be readable."""
streamed: Any = OfNumba(_streamed)
"""In a loop: copies 8 integers from one address to another, a multiple of 64, as int64, past the processor's caches.

An ordinary store reads a line of memory before it overwrites it, and puts others out of the cache. The third argument
is an array of the dtype of the integers. Other threads see what was written after a `fence`.
"""
fence: Any = OfNumba(_fence)
"""In a loop: all that was written is seen by other threads before what is written from now on."""
carray: Any = OfNumba(lambda numba: numba.carray)
