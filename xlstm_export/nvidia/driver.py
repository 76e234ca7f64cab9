"""The few calls of the CUDA driver that sessions and probes need, through `ctypes`.

The driver library comes with every NVIDIA GPU's driver, so that nothing else has to be installed. It works on the
device's primary context, which is the one that TensorRT, built on the CUDA runtime, uses too.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from dataclasses import dataclass

import numpy as np

from ..errors import ErrorKind, UserError

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
_STREAM_NON_BLOCKING = 1

# cuda.h: CUdeviceptr is 64 bits wide, CUdevice an int, contexts and streams are pointers.
_SIGNATURES = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDeviceTotalMem_v2": (POINTER(c_size_t), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemsetD8Async": (c_uint64, c_ubyte, c_size_t, c_void_p),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, c_void_p),
}


@dataclass(frozen=True)
class Gpu:
    """One CUDA device, by its number in CUDA's order."""

    index: int
    name: str
    capability: tuple[int, int]
    memory_bytes: int

    @property
    def target(self) -> str:
        """`sm89`."""
        return f"sm{self.capability[0]}{self.capability[1]}"


class CudaDriver:
    """The loaded and initialised driver.

    Raises:
        OSError: there is no driver, or `cuInit` failed (no device).
    """

    def __init__(self, library: str = LIBRARY):
        try:
            self._library = ctypes.CDLL(library)
        except OSError:
            raise OSError(f"no NVIDIA driver: {library} cannot be loaded") from None
        for name, types in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = types, c_int
        self._library.cuGetErrorString.argtypes = (c_int, POINTER(c_char_p))
        if code := self._library.cuInit(0):
            raise OSError(f"cuInit: {self._reason(code)}")

    def call(self, name: str, *arguments: object) -> None:
        """Raise a `UserError` with the driver's own words when a call fails."""
        if code := getattr(self._library, name)(*arguments):
            raise UserError(ErrorKind.runtime, f"the CUDA driver failed in {name}: {self._reason(code)}.")

    def _reason(self, code: int) -> str:
        text = c_char_p()
        self._library.cuGetErrorString(code, byref(text))
        return (text.value or b"unknown error").decode() + f" (code {code})"

    def version(self) -> str:
        """The newest CUDA that the driver supports, `13.0`."""
        number = c_int()
        self.call("cuDriverGetVersion", byref(number))
        return f"{number.value // 1000}.{number.value % 1000 // 10}"

    def gpus(self) -> list[Gpu]:
        count = c_int()
        self.call("cuDeviceGetCount", byref(count))
        return [self._gpu(index) for index in range(count.value)]

    def _gpu(self, index: int) -> Gpu:
        name, memory = ctypes.create_string_buffer(256), c_size_t()
        self.call("cuDeviceGetName", name, len(name), index)
        self.call("cuDeviceTotalMem_v2", byref(memory), index)
        capability = (
            self._attribute(_COMPUTE_CAPABILITY_MAJOR, index),
            self._attribute(_COMPUTE_CAPABILITY_MINOR, index),
        )
        return Gpu(index, name.value.decode(errors="replace"), capability, memory.value)

    def _attribute(self, attribute: int, index: int) -> int:
        value = c_int()
        self.call("cuDeviceGetAttribute", byref(value), attribute, index)
        return value.value


def list_gpus() -> list[Gpu]:
    """The CUDA devices here; none without a driver or device."""
    try:
        return CudaDriver().gpus()
    except (OSError, UserError):
        return []


class DeviceMemory:
    """One allocation and one stream on a device; every operation is ordered on that stream. Close it after use.

    One thread at a time may use it, whichever it is.
    """

    def __init__(self, driver: CudaDriver, size: int, device: int = 0):
        self._driver, self._device = driver, device
        context, stream, address = c_void_p(), c_void_p(), c_uint64()
        driver.call("cuDevicePrimaryCtxRetain", byref(context), device)
        self._closing = [lambda: driver.call("cuDevicePrimaryCtxRelease_v2", device)]
        try:
            driver.call("cuCtxSetCurrent", context)
            driver.call("cuStreamCreate", byref(stream), _STREAM_NON_BLOCKING)
            self._closing.append(lambda: driver.call("cuStreamDestroy_v2", stream))
            driver.call("cuMemAlloc_v2", byref(address), size)
            self._closing.append(lambda: driver.call("cuMemFree_v2", address))
        except BaseException:
            self.close()
            raise
        self._context, self._threads = context, threading.local()
        self.stream: int = stream.value or 0
        self.address: int = address.value
        self.size = size

    def zero(self, offset: int, size: int) -> None:
        """Set `size` bytes from `offset` to zero."""
        self._call("cuMemsetD8Async", self.address + offset, 0, size, self.stream)

    def upload(self, offset: int, array: np.ndarray) -> None:
        """Copy a contiguous array in. It must stay as it is until `synchronize`."""
        self._call("cuMemcpyHtoDAsync_v2", self.address + offset, array.ctypes.data, array.nbytes, self.stream)

    def download(self, offset: int, array: np.ndarray) -> None:
        """Copy out into a contiguous array; it is filled after `synchronize`."""
        self._call("cuMemcpyDtoHAsync_v2", array.ctypes.data, self.address + offset, array.nbytes, self.stream)

    def copy(self, source: int, target: int, size: int) -> None:
        """Copy `size` bytes from one offset to another."""
        self._call("cuMemcpyDtoDAsync_v2", self.address + target, self.address + source, size, self.stream)

    def synchronize(self) -> None:
        self._call("cuStreamSynchronize", self.stream)

    def _call(self, name: str, *arguments: object) -> None:
        if not hasattr(self._threads, "is_ready"):  # the driver keeps a current context for every thread
            self._driver.call("cuCtxSetCurrent", self._context)
            self._threads.is_ready = True
        self._driver.call(name, *arguments)

    def close(self) -> None:
        """Give stream, memory and context back. Repeated calls do nothing."""
        while self._closing:
            self._closing.pop()()
