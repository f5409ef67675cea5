"""Run as a program of its own: Python code on standard input, what `source.Shape` holds as JSON on standard output.

Parsing hostile text can take all memory or end the interpreter, which is why it happens here and not in the caller.
Nothing is compiled: constants are folded there, and `2**10**9` would be computed.
"""

import ast
import json
import resource
import sys
from collections.abc import Iterator
from typing import Any

MEMORY = 512 * 1024 * 1024
CPU_SECONDS = 5
METHOD = "generate_signals"
BLOCKS = (ast.stmt, ast.excepthandler, ast.match_case)


def main() -> None:
    """Limit this process, parse, answer. Running out of anything ends it with another exit code than 0."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    json.dump(shape_of(sys.stdin.buffer.read()), sys.stdout)


def shape_of(code: bytes) -> dict[str, Any]:
    """Return imports, contract and strategies of `code`, or its syntax error."""
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        message = f"line {error.lineno}: {error.msg}"
        return {"imports": [], "contract": "script", "strategies": {}, "syntax_error": message}
    except ValueError as error:
        return {"imports": [], "contract": "script", "strategies": {}, "syntax_error": str(error)}
    module = Module(tree)
    contract, names = module.contract()
    return {
        "imports": sorted(module.imports),
        "contract": contract,
        "strategies": {name: module.parameters(name) for name in names},
        "syntax_error": None,
    }


class Module:
    """The names that a module imports, and the functions and classes that it defines at its top level."""

    def __init__(self, tree: ast.Module) -> None:
        self.imports: set[str] = set()
        self.aliases: dict[str, str] = {}
        self.functions: dict[str, ast.FunctionDef] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                self._import(node)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                self._import_from(node)
        for node in top_level(tree):
            if isinstance(node, ast.ClassDef):
                self.classes[node.name] = node
            elif isinstance(node, ast.FunctionDef):
                self.functions[node.name] = node

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            top = alias.name.partition(".")[0]
            self.imports.add(top)
            self.aliases[alias.asname or top] = alias.name if alias.asname else top

    def _import_from(self, node: ast.ImportFrom) -> None:
        module = str(node.module)
        self.imports.add(module.partition(".")[0])
        for alias in node.names:
            name = "Strategy" if alias.name == "*" else alias.name
            self.aliases.setdefault(alias.asname or name, f"{module}.{name}")

    def contract(self) -> tuple[str, list[str]]:
        """Return the contract that the module keeps, ours first, and the names of the strategies that keep it."""
        public = [name for name in self.classes if not name.startswith("_")]
        frameworks = [name for name in public if self._is_framework_strategy(name)]
        ours = [name for name in public if name not in frameworks and METHOD in self._methods(name)]
        if METHOD in self.functions:
            ours.append(METHOD)
        if ours:
            return "signals", ours
        runnable = [name for name in frameworks if {"init", "next"} <= self._methods(name)]
        return ("backtesting", runnable) if runnable else ("script", [])

    def parameters(self, name: str) -> list[str] | None:
        """Return the parameters of a strategy: arguments after the frame, and a class's public attributes.

        None where the text does not tell: it takes any, or inherits from a class of another module.
        """
        if name in self.functions:
            return arguments_of(self.functions[name], 1)
        found: list[str] = []
        for base in (name, *self._ancestry(name)):
            if base not in self.classes:
                if base in ("backtesting.Strategy", "object"):
                    continue
                return None
            for node in self.classes[base].body:
                found += [target for target in assigned(node) if not target.startswith("_")]
                if isinstance(node, ast.FunctionDef) and node.name == METHOD:
                    arguments = arguments_of(node, 2)
                    if arguments is None:
                        return None
                    found += arguments
        return sorted(set(found))

    def _ancestry(self, name: str) -> Iterator[str]:
        """Yield the full names of a class's bases, near ones first, through the classes of this module."""
        waiting, seen = [name], set()
        while waiting:
            for base in self.classes[waiting.pop()].bases:
                full = self._full_name(base)
                if full in self.classes and full not in seen:
                    waiting.append(full)
                seen.add(full)
                yield full

    def _full_name(self, node: ast.expr) -> str:
        """Return a dotted expression with its first name replaced by what was imported under it."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        first = node.id if node.id in self.classes else self.aliases.get(node.id, node.id)
        return ".".join([first, *reversed(parts)])

    def _is_framework_strategy(self, name: str) -> bool:
        return any(base.startswith("backtesting.") and base.endswith("Strategy") for base in self._ancestry(name))

    def _methods(self, name: str) -> set[str]:
        """Return the methods that a class defines or inherits; the library's ready-made strategies are complete."""
        bases = list(self._ancestry(name))
        own = [self.classes[base] for base in (name, *bases) if base in self.classes]
        methods = {node.name for cls in own for node in cls.body if isinstance(node, ast.FunctionDef)}
        return methods | ({"init", "next"} if any(base.startswith("backtesting.lib.") for base in bases) else set())


def arguments_of(function: ast.FunctionDef, skipped: int) -> list[str] | None:
    """Return the names of a function's arguments after the first `skipped`; None when it takes any."""
    arguments = function.args
    if arguments.kwarg or function.decorator_list:
        return None
    return [argument.arg for argument in [*arguments.posonlyargs, *arguments.args][skipped:] + arguments.kwonlyargs]


def assigned(node: ast.stmt) -> list[str]:
    """Return the plain names that a statement assigns to."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def top_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the statements that run on import, those inside `if`, `try`, `with`, `match` and loops included."""
    waiting: list[ast.AST] = [*reversed(tree.body)]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            waiting.extend(reversed([part for part in ast.iter_child_nodes(node) if isinstance(part, BLOCKS)]))


if __name__ == "__main__":
    main()
