"""Pickles that would do something when they are loaded, and pickles that would take all memory or time.

`RUNNING` maps a name to opcodes that push one value, to be put anywhere in a pickle: a real unpickler would run code
for every one of them. `EXHAUSTING` maps a name to whole pickles.
"""

from __future__ import annotations

import pickle
import struct

CANARY = "code-was-run"
COMMAND = f"touch {CANARY}"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def named_on_stack(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


SYSTEM = name("posix", "system")
TOUCH = text(COMMAND)
_OPEN = call(name("io", "open"), text(CANARY), text("w"))
_NESTED = pickle.PROTO + b"\x02" + call(SYSTEM, TOUCH) + b"."


def data(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


_MADE = name("support.hostile_pickles", "Made")

RUNNING: dict[str, bytes] = {
    "REDUCE": call(SYSTEM, TOUCH),
    "REDUCE, name on the stack": call(named_on_stack("posix", "system"), TOUCH),
    "REDUCE of builtins.exec": call(name("builtins", "exec"), text(f"open({CANARY!r}, 'w')")),
    "REDUCE of __builtin__.eval": call(name("__builtin__", "eval"), text(f"open({CANARY!r}, 'w')")),
    "REDUCE of an imported function's attribute": call(
        call(name("builtins", "getattr"), call(name("builtins", "__import__"), text("os")), text("system")), TOUCH
    ),
    "REDUCE of a dotted name": call(named_on_stack("os", "path.os.system"), TOUCH),
    "REDUCE of open": _OPEN,
    "REDUCE of subprocess.Popen": call(name("subprocess", "Popen"), b"]" + text("touch") + b"a" + text(CANARY) + b"a"),
    "REDUCE of map": call(name("builtins", "list"), call(name("builtins", "map"), SYSTEM, b"]" + TOUCH + b"a")),
    "REDUCE of functools.partial": call(call(name("functools", "partial"), SYSTEM, TOUCH)),
    "REDUCE of operator.methodcaller": call(
        call(name("operator", "methodcaller"), text("system"), TOUCH),
        call(name("importlib", "import_module"), text("os")),
    ),
    "REDUCE of runpy": call(name("runpy", "run_path"), text("hostile.py")),
    "REDUCE of pickle.loads": call(name("pickle", "loads"), data(_NESTED)),
    "REDUCE of torch.load": call(name("torch.serialization", "load"), text("hostile.pt")),
    "REDUCE of a nested file of torch.save": call(name("torch.storage", "_load_from_bytes"), data(_NESTED)),
    "REDUCE of a value": call(text("posix.system"), TOUCH),
    "INST": b"(" + TOUCH + b"iposix\nsystem\n",
    "OBJ": b"(" + SYSTEM + TOUCH + b"o",
    "NEWOBJ": _MADE + b")\x81",
    "NEWOBJ_EX": _MADE + b")}" + text("mode") + text("w") + b"s\x92",
    "BUILD by __setstate__": call(name("support.hostile_pickles", "SetsState")) + TOUCH + b"b",
    "BUILD of a function's code": SYSTEM + b"}" + text("__code__") + TOUCH + b"sb",
    "BUILD with slots": call(name("support.hostile_pickles", "SetsAttribute")) + b"(N}" + text("run") + TOUCH + b"stb",
    "APPEND by a method append": call(name("support.hostile_pickles", "Appends")) + TOUCH + b"a",
    "APPENDS by a method extend": call(name("support.hostile_pickles", "Appends")) + b"(" + TOUCH + b"e",
    "SETITEM by __setitem__": call(name("support.hostile_pickles", "Appends")) + text("k") + TOUCH + b"s",
    "ADDITEMS by a method add": call(name("support.hostile_pickles", "Appends")) + b"(" + TOUCH + b"\x90",
    "key with a hash of its own": b"}" + call(name("support.hostile_pickles", "Hashes")) + b"K\x01s",
    "copyreg._reconstructor": call(
        name("copyreg", "_reconstructor"),
        _MADE,
        _MADE,
        b"N",
    ),
    "copyreg.__newobj__": call(name("copyreg", "__newobj__"), _MADE),
    "copyreg.__newobj_ex__": call(name("copyreg", "__newobj_ex__"), _MADE, b")", b"}"),
    "EXT1": b"\x82\x7d(" + TOUCH + b"tR",
    "EXT2": b"\x83\x7d\x00(" + TOUCH + b"tR",
    "EXT4": b"\x84\x7d\x00\x00\x00(" + TOUCH + b"tR",
    "persistent id": call(SYSTEM, TOUCH) + b"Q",
    "persistent id of a storage": b"(" + text("storage") + call(SYSTEM, TOUCH) + text("0") + text("cpu") + b"K\x01tQ",
    "PERSID": b"P__import__('os').system('" + COMMAND.encode() + b"')\n",
    "tensor rebuilt by another function": call(name("torch._utils", "_rebuild_device_tensor_from_numpy"), _OPEN),
    "tensor of a type": call(
        name("torch._tensor", "_rebuild_from_type_v2"), SYSTEM, name("torch", "Tensor"), b"(" + TOUCH + b"t", b"N"
    ),
    "wrapper of a tensor": call(name("torch._utils", "_rebuild_wrapper_subclass"), _OPEN),
    "dtype that is none": call(
        name("numpy._core.multiarray", "scalar"), call(name("numpy", "dtype"), text("O")), data(_NESTED)
    ),
    "array of objects": call(
        name("numpy._core.multiarray", "_reconstruct"), name("numpy", "ndarray"), b"K\x00\x85", data(b"b")
    )
    + b"(K\x01K\x01\x85"
    + call(name("numpy", "dtype"), text("O8"))
    + b"\x89]"
    + call(SYSTEM, TOUCH)
    + b"atb",
    "string with escapes": b'S\'\\x41\' + __import__("os").system("' + COMMAND.encode() + b"\")'\n",
}
"""EXT codes are those that the tests register for `posix.system`: 0x7d."""


class SetsState:
    def __setstate__(self, state: str) -> None:
        open(CANARY, "w").close()


class SetsAttribute:
    __slots__ = ("_run",)

    @property
    def run(self) -> str:
        return self._run

    @run.setter
    def run(self, value: str) -> None:
        open(CANARY, "w").close()


class Appends:
    def append(self, value: object) -> None:
        open(CANARY, "w").close()

    extend = add = append

    def __setitem__(self, key: object, value: object) -> None:
        open(CANARY, "w").close()


class Hashes:
    def __hash__(self) -> int:
        open(CANARY, "w").close()
        return 0


class Made:
    def __new__(cls, *arguments: object, **keywords: object) -> Made:
        open(CANARY, "w").close()
        return super().__new__(cls)


MANY = 200_000


def _laughs(levels: int, container: bytes) -> bytes:
    """A value that holds ten times the one before, and so on."""
    return text("ha") + b"q\x000" + (container + b"q\x000") * levels + b"h\x00"


_LAUGHING = _laughs(40, b"(" + b"h\x00" * 10 + b"l")

EXHAUSTING: dict[str, bytes] = {
    "a billion laughs in lists": _LAUGHING,
    "a billion laughs in tuples": _laughs(40, b"(" + b"h\x00" * 10 + b"t"),
    "a billion laughs in dictionaries": _laughs(
        40, b"}(" + b"".join(text(f"k{i}") + b"h\x00" for i in range(10)) + b"u"
    ),
    "a billion laughs in objects": _laughs(
        40, b"cmodule\nClass\n)R}(" + b"".join(text(f"k{i}") + b"h\x00" for i in range(10)) + b"ub"
    ),
    "a billion laughs that are called": _LAUGHING + b")R",
    "a billion laughs that are made": call(name("copyreg", "_reconstructor"), _LAUGHING, b"N", b"N"),
    "a billion laughs in place of a dtype": call(
        name("numpy._core.multiarray", "scalar"), _LAUGHING + b")R", data(b"")
    ),
    "a billion laughs in place of a name": call(name("builtins", "getattr"), b"N", _LAUGHING),
    "a billion laughs in place of a path": call(name("pathlib", "PosixPath"), _LAUGHING),
    "a billion laughs as arguments": name("a", "b") + _LAUGHING + b"R",
    "a billion laughs as a persistent id": _LAUGHING + b"Q",
    "a billion laughs in place of a storage": call(
        name("torch._utils", "_rebuild_tensor_v2"), _LAUGHING, b"K\x00", _LAUGHING, _LAUGHING, b"\x89", b"}"
    ),
    "a billion laughs in place of a layout": call(
        name("torch._utils", "_rebuild_sparse_tensor"), call(name("torch", "layout"), _LAUGHING), b"N"
    ),
    "tuples nested 200,000 times": b")" + b"\x85" * MANY,
    "lists nested 200,000 times": b"]" * MANY + b"a" * (MANY - 1),
    "calls nested 200,000 times": name("a", "b") + (b")R" * MANY),
    "objects nested 200,000 times": (b"ca\nb\n)R" * (MANY // 4)) + b"b" * (MANY // 4 - 1),
    "nested tuples as a key": b"}" + b")" + b"\x85" * MANY + b"K\x01s",
    "marks without end": b"(" * (MANY * 3),
    "a list in itself": b"]q\x00h\x00a",
    "a dictionary in itself": b"}q\x00" + text("k") + b"h\x00s",
    "an object in itself": b"ca\nb\n)Rq\x00}" + text("k") + b"h\x00sb",
    "an object called with itself": b"]q\x00ca\nb\nh\x00Ra",
    "a memo without end": b"K\x01r\xff\xff\xff\x7fj\xff\xff\xff\x7f",
    "a memo of names": b"K\x01p" + b"9" * 5000 + b"\n",
    "bytes of 2**60": b"\x8e" + struct.pack("<Q", 2**60),
    "a bytearray of 2**60": b"\x96" + struct.pack("<Q", 2**60),
    "text of 2**60": b"\x8d" + struct.pack("<Q", 2**60),
    "a frame of 2**60": b"\x95" + struct.pack("<Q", 2**60) + b"N",
    "bytes of 4 GB": b"B\xff\xff\xff\xff",
    "a negative length": b"\x8b\xff\xff\xff\xff",
    "a number of 100,000 digits": b"I" + b"9" * 100_000 + b"\n",
    "a long number of a megabyte": b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20),
    "millions of opcodes": b"N0" * 1_600_000 + b"N",
    "nothing on the stack": b"R",
    "a pop of nothing": b"0",
    "an unknown memo": b"h\x07",
    "nothing to put into": b"K\x01K\x02s",
    "an odd number of items": b"}(K\x01u",
    "no end": b"",
}


def pickled(value: bytes, protocol: int = 2) -> bytes:
    return pickle.PROTO + bytes([protocol]) + value + b"."
