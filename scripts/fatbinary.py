#!/usr/bin/env python3
"""CUDA's program fatbinary as clang calls it, by CUDA's library nvfatbin, which lies in ../lib-here.

    fatbinary -64 --create OUT --image=profile=sm_87,file=CUBIN --image=profile=compute_87,file=PTX

NVIDIA's wheels of CUDA 12 have the library and not the program; that of CUDA 13 knows none of clang's options.
"""

import argparse
import ctypes
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-64", action="store_true", required=True)
    parser.add_argument("--create", type=Path, required=True)
    parser.add_argument("--image", action="append", required=True)
    options = parser.parse_args()
    library = ctypes.CDLL(str(Path(__file__).resolve().parents[1] / "lib-here" / "libnvfatbin.so.12"))
    library.nvFatbinGetErrorString.restype = ctypes.c_char_p

    def call(name: str, *arguments: object) -> None:
        if code := getattr(library, name)(*arguments):
            raise SystemExit(f"{name}: {library.nvFatbinGetErrorString(code).decode()}")

    handle, size = ctypes.c_void_p(), ctypes.c_size_t()
    flags = [b"-64", b"-cuda", b"-host=linux"]
    call("nvFatbinCreate", ctypes.byref(handle), (ctypes.c_char_p * len(flags))(*flags), ctypes.c_size_t(len(flags)))
    for image in options.image:
        fields = dict(field.split("=", 1) for field in image.split(","))
        kind, _, architecture = fields["profile"].partition("_")
        code = Path(fields["file"]).read_bytes()
        entry = (handle, code, ctypes.c_size_t(len(code)), architecture.encode(), Path(fields["file"]).name.encode())
        if kind == "sm":
            call("nvFatbinAddCubin", *entry)
        else:
            call("nvFatbinAddPTX", *entry, None)
    call("nvFatbinSize", handle, ctypes.byref(size))
    fatbin = ctypes.create_string_buffer(size.value)
    call("nvFatbinGet", handle, fatbin)
    options.create.write_bytes(fatbin.raw)


if __name__ == "__main__":
    main()
