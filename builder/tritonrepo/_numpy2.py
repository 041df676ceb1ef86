"""Makes the embedded server's Python backend right with NumPy 2. Runs inside the backend's processes, not tritonrepo's.

The backend's C++ code was built for NumPy 1 and reads the size of a dtype's items from where NumPy 1 kept it. NumPy 2
keeps flags there, zero for numbers: every element of an input array becomes the first one, and outputs have no bytes.
Three places depend on that size, and each is given another way here:

- input arrays: the C++ code computes strides from it and hands them to PyArray_NewFromDescr, which it takes from
  NumPy's table of functions. It gets a copy of the table in which that function leaves the strides to NumPy;
- outputs that are numbers: they go through DLPack, which describes an array without it;
- outputs that are strings, which DLPack cannot carry: the bytes are handed over as an array of a dtype of its own, in
  whose flags the size is written for as long as the C++ code looks.

This file stands in the site-packages that `_stubs.link_python` makes; its .pth file imports it before any model.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any

_UTILS = "triton_python_backend_utils"
_USED = b"used_dltensor"  # kept here, because a capsule does not copy its name

# Index of PyArray_NewFromDescr in NumPy's table, and how much of it is copied: the C++ code reads none beyond 282.
_NEW_FROM_DESCR = 94
_TABLE_SIZE = 300
# Where a dtype keeps its type number, flags and item size in NumPy 2 (64 bit).
_NUMBER_AT, _FLAGS_AT, _ITEMSIZE_AT = 28, 32, 40

_kept: list[object] = []  # what C code points to
_serializing = threading.Lock()


def patch() -> None:
    """Patch arrays and tensors where this is a backend process and NumPy is 2 or later."""
    if "c_python_backend_utils" not in sys.builtin_module_names:
        return
    try:
        import numpy as np
    except ImportError:
        # The backend itself says it better.
        return
    if int(np.__version__.partition(".")[0]) >= 2:
        _patch_inputs()
        _patch_outputs(np)


def _patch_inputs() -> None:
    from numpy.core import multiarray  # where the C++ code looks for the table

    api = ctypes.pythonapi
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    api.PyCapsule_New.restype = ctypes.py_object
    api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    pointer, number = ctypes.c_void_p, ctypes.c_int
    prototype = ctypes.PYFUNCTYPE(pointer, pointer, pointer, number, pointer, pointer, pointer, number, pointer)
    original = api.PyCapsule_GetPointer(multiarray._ARRAY_API, None)
    table = (pointer * _TABLE_SIZE)()
    ctypes.memmove(table, original, ctypes.sizeof(table))
    native = prototype(table[_NEW_FROM_DESCR] or 0)

    def new_from_descr(
        kind: int, descr: int, axes: int, shape: int, strides: int, data: int, flags: int, template: int
    ) -> int | None:
        # The backend makes arrays of contiguous memory only: without strides NumPy computes the right ones.
        array: int | None = native(kind, descr, axes, shape, None if data else strides, data, flags, template)
        return array

    callback = prototype(new_from_descr)
    table[_NEW_FROM_DESCR] = ctypes.cast(callback, pointer)
    _kept.extend((table, callback))
    multiarray._ARRAY_API = api.PyCapsule_New(table, None, None)


def _patch_outputs(np: Any) -> None:
    import c_python_backend_utils as backend  # type: ignore[import-not-found]

    native = backend.Tensor
    rename = ctypes.pythonapi.PyCapsule_SetName
    rename.argtypes = (ctypes.py_object, ctypes.c_char_p)

    class IsNative(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, native)

    class Tensor(metaclass=IsNative):
        from_dlpack = staticmethod(native.from_dlpack)

        def __new__(cls, name: str, numpy_array: Any) -> Any:
            if numpy_array.dtype.kind in "OS":
                return _string_tensor(np, native, name, numpy_array)
            if numpy_array.size == 0:
                # No bytes is right for once, and DLPack's strides of an empty array look like gaps to the backend.
                return native(name, numpy_array)
            # DLPack takes no array that is read-only, and Triton none that has gaps.
            capsule = np.require(numpy_array, requirements=("C", "W")).__dlpack__()
            tensor = native.from_dlpack(name, capsule)
            # The backend marks the capsule as used by a name that NumPy does not know and would complain about.
            rename(capsule, _USED)
            return tensor

    backend.Tensor = Tensor


def _string_tensor(np: Any, native: Any, name: str, strings: Any) -> Any:
    utils: Any = sys.modules[_UTILS]
    with _serializing:
        data = utils.serialize_byte_tensor(strings)
    # Metadata makes it a dtype of its own; writing to NumPy's shared one would change every array of bytes.
    dtype = np.dtype("u1", metadata={"for": name})
    flags = ctypes.c_uint64.from_address(id(dtype) + _FLAGS_AT)
    number = ctypes.c_int.from_address(id(dtype) + _NUMBER_AT).value
    itemsize = ctypes.c_ssize_t.from_address(id(dtype) + _ITEMSIZE_AT).value
    if (number, itemsize, flags.value) != (dtype.num, 1, 0):
        raise TypeError(f"string tensors need NumPy 1 here: this NumPy ({np.__version__}) keeps its dtypes otherwise")
    serialized = np.frombuffer(bytes(data), dtype)
    with _serializing:
        serialize, utils.serialize_byte_tensor = utils.serialize_byte_tensor, lambda _: serialized
        flags.value = 1
        try:
            return native(name, strings)
        finally:
            flags.value = 0
            utils.serialize_byte_tensor = serialize


patch()
