"""Chat templates, rendered with a count of what they do.

A template is a program. With loops, or texts that it repeats, it could take hours or all memory for the one
dialogue that contains a phrase, and how long an owner takes would tell that somebody's does.

Guarantee of ``render``: it ends with a text, or with an exception, after work that is at most proportional to
the size of the messages: each step of a loop, call, filter and operator is counted, and each character that
one of them takes in or gives, against ``_START + _MESSAGE * messages + _CHARACTER * characters``. What can
make more than a few times what it is given (repetition, formats, most filters) is counted before it runs, or
cannot be used. Whether a record's rendering is stopped follows from that record alone, not from time.

Assumptions: Jinja's own sandbox holds. Operators of Python's texts, lists and numbers take a time that is
proportional to what they take in and give.

Not guaranteed: that all dialogues of a size take one time. A template can do more for some, up to the bound.

It renders what ``apply_chat_template`` of ``transformers`` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

_START, _MESSAGE, _CHARACTER = 1_000_000, 10_000, 40
_STEP = 100
"""What a step of a loop, a call, a filter or an operator counts, in characters."""
_PART = 20
"""What each part of a value counts that is looked into, in characters."""
_WORK = "work left"
"""A variable that no template can name."""
_LONGEST_SEPARATORS = 8


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_METHODS: dict[type, frozenset[str]] = {
    str: _words(
        "strip lstrip rstrip split rsplit splitlines partition rpartition startswith endswith title upper "
        "lower capitalize removeprefix removesuffix find rfind index rindex count replace join isalpha "
        "isdigit isalnum isspace isupper islower isnumeric"
    ),
    dict: _words("get items keys values"),
    list: _words("index count"),
    tuple: _words("index count"),
    **dict.fromkeys((int, float, bytes, range, type, complex), _words("")),
}
"""What of such values can be called."""
_OF_ANY = _words(
    "length count first last default d list items map select reject selectattr rejectattr reverse int float "
    "abs round"
)
_AT_ONCE = _words("length count first last default d")
"""Filters that take as long for a long value as for a short one."""
_OF_TEXT = _words("string trim upper lower capitalize title safe replace join tojson")
_KINDS = _words(
    "defined undefined none string mapping iterable sequence number integer float boolean true false "
    "callable sameas odd even filter test"
)
"""Tests that look at what a value is, and not into it."""


class _Work:
    """What is left of the work that a rendering may take, in characters."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise TemplateError("it takes far more work than dialogues of this size need.")

    def whole(self, value: Any) -> None:
        """Count a value with all that is in it."""
        left = [value]
        while left:
            one = left.pop()
            if isinstance(one, str):
                self.take(_PART + len(one))
            elif isinstance(one, list | tuple | range):
                self.take(_PART * (1 + len(one)))
                left.extend(one if not isinstance(one, range) else ())
            elif isinstance(one, dict):
                self.take(_PART * (1 + 2 * len(one)))
                left.extend(one.keys())
                left.extend(one.values())
            elif one is None or isinstance(one, int | float | Undefined):
                self.take(_PART)
            else:
                raise SecurityError(f"{type(one).__name__} is neither a text nor a list of texts.")

    def top(self, value: Any) -> None:
        """Count a value without what is in its parts."""
        self.take(
            _STEP + (len(value) if isinstance(value, str | list | tuple | dict | range) else 0)
        )


def render(template: str, messages: Sequence[Mapping[str, str]], **names: Any) -> str:
    """The text of messages; `names`: further variables, such as ``bos_token``.

    Raises ``jinja2.TemplateError`` and what else an operator in the template raises.
    """
    characters = sum(len(value) for one in messages for value in one.values())
    work = _Work(_START + _MESSAGE * len(messages) + _CHARACTER * characters)
    given = {"messages": [dict(one) for one in messages], "tools": None, "documents": None}
    return _compiled(template).render({**given, **names, _WORK: work})


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    environment = _Counting()
    tree = _Counted(environment).visit(environment.parse(template))
    return environment.from_string(tree)


class _Generation(Extension):
    """The tag with which a template of ``transformers`` marks answers."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Counting(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        for name, known in list(self.filters.items()):
            self.filters[name] = _filter(name, _to_json if name == "tojson" else known)
        self.filters |= {"counted": _counted, "counted top": _counted_top, "counted steps": _steps}
        looks: dict[str, Any] = self.tests
        looks |= {name: _test(looks[name]) for name in looks.keys() - _KINDS}
        del self.globals["lipsum"]  # by chance
        self.globals |= {"raise_exception": _raise, "dict": _dict, "namespace": _Names}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, allowed in _METHODS.items():
            if isinstance(obj, kind):
                return attr in allowed
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        return None

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        work = _work(context)
        work.top(left)
        work.top(right)
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "*" and not numbers:
            for some, times in ((left, right), (right, left)):
                if isinstance(times, int) and isinstance(some, str | list | tuple):
                    work.take(len(some) * max(times, 0))
        elif operator != "+" and not numbers:
            raise SecurityError(f"{operator!r} is not counted for what are no numbers.")
        if operator == "**" and (abs(left) > 1000 or abs(right) > 16):
            raise SecurityError("a power is too large.")
        found = super().call_binop(context, operator, left, right)
        if isinstance(found, int) and found.bit_length() > 256:
            raise SecurityError("a number is too large.")
        return found

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        work = _work(__context)
        work.take(_STEP)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            _check_method(work, __obj.__name__, owner, args)
        elif isinstance(owner, dict):
            work.top(owner)
        elif isinstance(owner, list | tuple):
            work.whole(owner)
        if not isinstance(__obj, Macro | BlockReference | type) and __obj is not _raise:
            work.whole([*args, *kwargs.values()])
        return super().call(__context, __obj, *args, **kwargs)


class _Counted(NodeTransformer):
    """Counts what Jinja does without asking the environment: outputs, loops, comparisons, slices, ``~``."""

    def __init__(self, environment: _Counting) -> None:
        self._environment = environment

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        node = super().generic_visit(node, *args, **kwargs)
        for name in ("dyn_args", "dyn_kwargs"):
            if getattr(node, name, None) is not None:
                setattr(node, name, self._by("counted top", getattr(node, name)))
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [self._by("counted", one) for one in node.nodes]
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.Const(node.data).set_lineno(node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise SecurityError("a loop that calls itself is not counted.")
        self.generic_visit(node)
        node.iter = self._by("counted steps", node.iter)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = self._by("counted", node.expr)
        for one in node.ops:
            one.expr = self._by("counted", one.expr)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._by("counted top", self.generic_visit(node))

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._by("counted top", self.generic_visit(node))

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return self._by("counted top", node) if node.ctx == "load" else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [self._by("counted", one) for one in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = self._by("counted top", node.node)
        return node

    def _by(self, name: str, value: Any) -> nodes.Expr:
        found = nodes.Filter(value, name, [], [], None, None)
        found.set_lineno(value.lineno).set_environment(self._environment)
        return found


def _work(context: Context) -> _Work:
    found = context.parent[_WORK]
    assert isinstance(found, _Work)
    return found


@pass_context
def _counted(context: Context, value: Any) -> Any:
    _work(context).whole(value)
    return value


@pass_context
def _counted_top(context: Context, value: Any) -> Any:
    _work(context).top(value)
    return value


@pass_context
def _steps(context: Context, value: Any) -> list[Any]:
    """What a loop goes through, counted before it does."""
    found = []
    for one in value:
        _work(context).take(_STEP)
        found.append(one)
    return found


def _filter(name: str, known: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is counted; one that could not be raises if it is used."""
    own = getattr(known, "jinja_pass_arg", None)

    @pass_context
    def counted(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        work = _work(context)
        if name not in _OF_ANY | _OF_TEXT:
            raise SecurityError(f"the filter {name!r} is not counted.")
        work.top(None if name in _AT_ONCE else value)
        work.whole([*args, *kwargs.values()])
        if name in _OF_TEXT:
            value = list(value) if name == "join" and not isinstance(value, str) else value
            work.whole(value)
            _check_text_filter(work, name, value, [*args, *kwargs.values()])
        first = {"context": context, "eval_context": context.eval_ctx}.get(
            own.name if own else "", context.environment
        )
        return known(*([first] if own else []), value, *args, **kwargs)

    return counted


def _check_text_filter(work: _Work, name: str, value: Any, given: list[Any]) -> None:
    """Count what a filter makes of more than what it takes in."""
    if name == "join":
        longest = max((len(one) for one in given if isinstance(one, str)), default=0)
        work.take(longest * len(value))
    elif name == "replace":
        _check_method(work, name, str(value), given)
    elif name == "trim":
        _check_method(work, "strip", str(value), given)


def _check_method(work: _Work, name: str, owner: str, given: Sequence[Any]) -> None:
    """Count what a method of texts takes in, and what it makes of more than that."""
    work.whole([owner, *given])
    texts = [one for one in given if isinstance(one, str)]
    if name == "replace" and len(texts) > 1:
        work.take(owner.count(texts[0]) * len(texts[1]))
    elif name.endswith("strip") and texts:
        work.take(len(owner) * len(texts[0]))
    elif name == "join" and given:
        work.take(len(owner) * len(given[0]))


def _test(known: Callable[..., Any]) -> Callable[..., Any]:
    own = getattr(known, "jinja_pass_arg", None)

    @pass_context
    def counted(context: Context, value: Any, *args: Any) -> Any:
        _work(context).whole([value, *args])
        return known(*([context.environment] if own else []), value, *args)

    return counted


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None or len("".join(separators or ())) > _LONGEST_SEPARATORS:
        raise SecurityError("JSON with an indentation, or long separators, is not counted.")
    return json.dumps(value, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


class _Names(Namespace):
    """Of a template; no name begins with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args
        found = dict(*given, **kwargs)
        for name in found:
            _check_name(name)
        Namespace.__init__(self, found)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"{name!r} cannot be a name of a namespace.")
