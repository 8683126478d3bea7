"""Pickles read without running what they ask for.

A pickle is a program that builds objects on a stack and may call any function it names. Here the
opcodes, which the standard library decodes (pickletools), are carried out one by one, and there is
none that calls: a name becomes a `Global`, the call of one an `Unknown` that records what was to
be called. What else a pickle holds are plain values, lists, tuples, sets and dicts.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from jaxparse.files import brief

# Functions by which a pickle does harm when it is loaded. None would be run in any case: a file
# that asks for one is refused since nobody saves weights so.
HARMFUL_MODULES = ("os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "pty", "runpy")
HARMFUL_MODULES += ("importlib", "ctypes", "pickle", "marshal", "webbrowser")
HARMFUL_BUILTINS = ("eval", "exec", "execfile", "compile", "open", "__import__", "input")
DICTS = ("collections.OrderedDict", "collections.defaultdict", "collections.Counter")


class RefusedError(ValueError):
    """What is wrong with a file that is otherwise readable; the message begins with its path."""


class Global(NamedTuple):
    """A class or function that a pickle names."""

    name: str  # module.attribute


@dataclass(eq=False)  # may be the key of a dict
class Unknown:
    """What the call of a `Global` was to give."""

    name: str
    args: object = ()
    state: object = None
    items: dict[Any, Any] = field(default_factory=dict)  # a subclass of dict

    def append(self, item: object) -> None:
        """Into a subclass of list: left out."""


def load_pickle(
    file: BinaryIO,
    calls: Mapping[str, Callable[..., Any]],
    persistent: Callable[[Any], Any],
) -> Any:  # noqa: ANN401
    """What the next pickle in the file builds; the file is then at its end.

    `calls` are functions of ours in place of globals by their names; `persistent` gives the object
    of a persistent id. Raises RefusedError for harmful globals; any other error if the pickle is
    damaged.
    """
    machine = _Machine(calls, persistent)
    for opcode, argument, _ in pickletools.genops(file):
        machine.step(opcode.name, argument)
    return machine.stack.pop()


def _global(module: str, attribute: str) -> Global:
    harmful = module.split(".")[0] in HARMFUL_MODULES or (
        module in ("builtins", "__builtin__") and attribute in HARMFUL_BUILTINS
    )
    if harmful:
        raise RefusedError(
            f"is refused: it asks for {brief(f'{module}.{attribute}')}, which may run code; give a "
            "file that holds only weights"
        )
    return Global(f"{module}.{attribute}")


def _add_items(target: dict | Unknown, flat: list) -> None:
    items = target.items if isinstance(target, Unknown) else target
    items.update(zip(flat[::2], flat[1::2], strict=True))


class _Machine:
    """The stack of a pickle, the marks in it, and what it keeps to be taken again."""

    def __init__(
        self, calls: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any]
    ) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks up to each mark
        self.memo: dict[int, Any] = {}
        self.calls, self.persistent = calls, persistent

    def step(self, name: str, argument: Any) -> None:  # noqa: ANN401
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "POP":
                self.stack.pop()
            case "POP_MARK":
                self.since_mark()
            case "DUP":
                self.stack.append(self.stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "APPEND" | "APPENDS" | "ADDITEMS" | "SETITEM" | "SETITEMS" | "BUILD":
                self.fill(name)
            case _:
                made = self.made(name, argument)  # which may replace the stack
                self.stack.append(made)

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def popped(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def fill(self, name: str) -> None:
        """Opcodes that add to the object below their arguments."""
        counts = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}
        items = self.popped(counts[name]) if name in counts else self.since_mark()
        target = self.stack[-1]
        if name == "BUILD":
            if isinstance(target, Unknown):  # else attributes of a dict: torch's _metadata
                target.state = items[0]
        elif name in ("SETITEM", "SETITEMS"):
            _add_items(target, items)
        else:
            add = target.add if isinstance(target, set) else target.append
            for item in items:
                add(item)

    def made(self, name: str, argument: Any) -> Any:  # noqa: ANN401
        """What an opcode pushes."""
        match name:
            case "GET" | "BINGET" | "LONG_BINGET":
                return self.memo[argument]
            case "NONE":
                return None
            case "NEWTRUE" | "NEWFALSE":
                return name == "NEWTRUE"
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE" | "EMPTY_SET":
                return {"DICT": dict, "LIST": list, "TUPLE": tuple, "SET": set}[name[6:]]()
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                return tuple(self.popped(int(name[-1])))
            case "TUPLE" | "LIST" | "FROZENSET":
                return {"TUPLE": tuple, "LIST": list, "FROZENSET": frozenset}[name](
                    self.since_mark()
                )
            case "DICT":
                _add_items(items := {}, self.since_mark())
                return items
            case "BINPERSID":
                return self.persistent(self.stack.pop())
            case "GLOBAL":
                return _global(*argument.split(" ", 1))
            case "STACK_GLOBAL":
                return _global(*self.popped(2))
            case "REDUCE" | "NEWOBJ":
                return self.call(*self.popped(2))
            case "NEWOBJ_EX":
                return self.call(*self.popped(3)[:2])
            case "INST":
                return self.call(_global(*argument.split(" ", 1)), tuple(self.since_mark()))
            case "OBJ":
                function, *arguments = self.since_mark()
                return self.call(function, tuple(arguments))
        if argument is None or name.startswith(("EXT", "PERSID")):
            raise ValueError(f"opcode {name} is not known here")
        return argument  # a number or a text

    def call(self, function: Global | Unknown, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401
        """Runs one of `calls` or records the call; a dict of the standard library is a dict."""
        if function.name in self.calls:
            return self.calls[function.name](*arguments)
        if function.name in DICTS:
            default = function.name == DICTS[1]
            return dict(*arguments[1:] if default else arguments)
        return Unknown(function.name, arguments)
