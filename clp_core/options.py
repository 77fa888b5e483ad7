"""Options of commands and experiments: frozen dataclasses whose fields carry their help and bounds.

One definition makes the command line, the page's form, the spec of a job and the validation. Pydantic validates; it is
imported when the first options are made, as ``clp --help`` and the supervisors of jobs make none.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import reprlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from clp_core.errors import InputError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationInfo

MISSING: Any = dataclasses.MISSING
MAX_WHOLE = 2**63 - 1
"""Largest whole number of any option: what 64 bits hold."""
SHOWN_CHARACTERS = 60
SHOWN_HELP = 90
MAX_LISTED = 20
SWITCH_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
FLAG = re.compile(r"--[a-z][a-z0-9-]*")
WORDINGS = {
    "missing": ("a value is missing", "needed: {help}"),
    "extra_forbidden": ("this name is unknown", "{names}"),
    "empty": ("the value is empty", "needed: {help}"),
    "too_short": ("the list is empty", "needed: {help}"),
    "nul": ("{value} holds a NUL character", "leave it out"),
    "pattern": ("{value} is not valid", "needed: {help}"),
    "literal_error": ("{value} is unknown", "use one of {choices}"),
    "int_type": ("{value} is not a whole number", "give one"),
    "float_type": ("{value} is not a number", "give one"),
    "finite_number": ("{value} is not a finite number", "give one"),
    "bool_type": ("{value} is neither true nor false", "give one of them"),
    "string_type": ("{value} is not a text", "give one, in quotes where it could be read as something else"),
    "tuple_type": ("{value} is not a list", "write it as in [{plain}]"),
    "dict_type": ("{value} is not a table of names and values", "write it as in {{name: value}}"),
    "too_long": ("{value} has too many parts", "needed: {help}"),
    "greater_than_equal": ("{value} is too small", "give {ge} or more"),
    "greater_than": ("{value} is too small", "give more than {gt}"),
    "less_than_equal": ("{value} is too large", "give {le} or less"),
    "less_than": ("{value} is too large", "give less than {lt}"),
}
"""What is wrong and what to do, by the type of pydantic's error."""


def option(
    default: Any = MISSING,
    *,
    help: str,
    choices: Sequence[str] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    pattern: re.Pattern[str] | None = None,
    cure: str = "",
    allow_empty: bool = False,
    metavar: str = "",
    hidden: bool = False,
) -> Any:
    """Define a field of an option class.

    Args:
        default: the default; without one the field must be given. A text may be empty where its default is.
        help: one line on its meaning and effect.
        choices: the values it may have, if these can be listed.
        minimum: smallest number.
        maximum: largest number.
        above: the number must be larger than this.
        below: the number must be smaller than this.
        pattern: what a text, or each text of a list, must match as a whole.
        cure: what to do about a value that is refused, where the bounds alone do not say it.
        allow_empty: whether a list may hold empty texts.
        metavar: name of a positional value in the command's help.
        hidden: whether code sets the field and no user, so that errors do not offer it.
    """
    metadata: dict[str, Any] = {
        "help": help,
        "choices": tuple(choices),
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
    }
    metadata |= {"below": below, "pattern": pattern, "cure": cure, "allow_empty": allow_empty}
    metadata |= {"metavar": metavar, "hidden": hidden}
    return dataclasses.field(default=default, metadata=metadata)


def like(options: type, name: str, **changed: Any) -> Any:
    """Define a field as that of another option class, with changes to its metadata."""
    item = field_of(options, name)
    return dataclasses.field(default=item.default, metadata={**item.metadata, **changed})


class OptionsError(InputError):
    """Values of options that are refused.

    Attributes:
        options: the option class.
        problems: name of the field, empty for the whole, and what is wrong with it and what to do.
    """

    def __init__(self, options: type, problems: Sequence[tuple[str, str]]) -> None:
        """Word the problems for the command line."""
        self.options, self.problems = options, tuple(dict.fromkeys(problems))
        super().__init__(self.worded(flag_of))

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields with a problem."""
        return tuple(dict.fromkeys(name for name, _ in self.problems if name))

    def named(self, name_of: Callable[[str], str]) -> list[tuple[str, str]]:
        """Return the problems with other names for the fields; flags in the texts are renamed too."""
        names = {flag_of(item.name): item.name for item in dataclasses.fields(self.options)}

        def renamed(flag: re.Match[str]) -> str:
            return name_of(names[flag[0]]) if flag[0] in names else flag[0]

        return [(name and name_of(name), FLAG.sub(renamed, text)) for name, text in self.problems]

    def worded(self, name_of: Callable[[str], str]) -> str:
        """Word all problems in one line.

        Args:
            name_of: what readers call a field.
        """
        return ". ".join(f"{name}: {text}" if name else text for name, text in self.named(name_of))

    @property
    def for_page(self) -> str:
        """The message for a form, whose fields have no flags."""
        text = self.worded(lambda name: name.replace("_", " "))
        return text[:1].upper() + text[1:]


O = TypeVar("O", bound="Options")  # noqa: E741


@dataclass(frozen=True)
class Options:
    """Base of the option classes.

    Attributes:
        COMMAND: words of the ``clp`` command that takes them.
        PLACED: fields that the command takes by their place, in their order.
    """

    COMMAND: ClassVar[tuple[str, ...]] = ()
    PLACED: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Validate the values.

        Raises:
            OptionsError: some are refused.
        """
        given = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.init}
        for name, value in validated(type(self), given).items():
            object.__setattr__(self, name, value)
        if problems := list(self.problems()):
            raise OptionsError(type(self), problems)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what the fields' own bounds do not cover: a field, and what is wrong with it and what to do."""
        yield from ()

    @classmethod
    def of_json(cls: type[O], content: Any) -> O:
        """Make the options that a job's spec or a request holds; fields that it lacks have their defaults.

        Raises:
            OptionsError: it holds unknown fields, or values that are refused.
        """
        return cls(**validated(cls, content))

    @classmethod
    def of_text(cls: type[O], content: Any) -> O:
        """Make the options that a file written by hand holds, whose numbers and switches are texts.

        Raises:
            OptionsError: it holds unknown fields, or values that are refused.
        """
        return cls(**validated(cls, content, as_text=True))

    @classmethod
    def usable_part(cls, content: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Validate each value by itself, to fill a form from the spec of another version or machine.

        Returns:
            The values that are accepted, and the names of those that are not, which have their defaults.
        """
        values, refused = {}, []
        for name, value in content.items() if isinstance(content, Mapping) else ():
            try:
                values[name] = validated(cls, {name: value})[name]
            except OptionsError as error:
                if name in error.fields:
                    refused.append(str(name))
                else:  # others are missing
                    values[name] = value
        return values, tuple(refused)


def validated(options: type[Options], content: Any, *, as_text: bool = False) -> dict[str, Any]:
    """Validate the values of an option class, each by itself.

    Args:
        options: the class.
        content: values by the names of their fields.
        as_text: whether numbers and switches may be written as texts, such as ``3e-4`` or ``yes``.

    Raises:
        OptionsError: some are refused; all of them are named.
    """
    from pydantic import ValidationError

    try:
        values = adapter_of(options).validate_python(content, context={"as_text": as_text})  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [problem_of(options, dict(each)) for each in error.errors(include_url=False)]
    else:
        return dict(values)
    raise OptionsError(options, problems)


def problem_of(options: type, error: Mapping[str, Any]) -> tuple[str, str]:
    """Translate one of pydantic's errors into the name of the field, and what is wrong with it and what to do."""
    names: dict[str, Mapping[str, Any]] = {
        item.name: item.metadata for item in dataclasses.fields(options) if item.init
    }
    name = str(error["loc"][0]) if error["loc"] else ""
    metadata = names.get(name, {})
    kind = "empty" if error["input"] is None and name else error["type"]
    wrong, cure = WORDINGS.get(kind, ("{value} is not valid", "{message}"))
    bounds = {name: f"{bound:g}" if isinstance(bound, float) else bound for name, bound in error.get("ctx", {}).items()}
    parts = {**bounds, "value": shown(error["input"]), "help": short_help(metadata.get("help", ""))}
    parts |= {
        "names": known_names(name, [known for known, about in names.items() if not about.get("hidden")]),
        "plain": shown(error["input"]).strip("'"),
        "choices": ", ".join(metadata.get("choices", ())),
        "message": error["msg"],
    }
    if kind not in ("missing", "empty", "too_short"):
        cure = metadata.get("cure", "").replace("{", "{{").replace("}", "}}") or cure
    return name, f"{wrong}; {cure}".format(**parts)


def known_names(name: str, names: Sequence[str]) -> str:
    """List the names of fields for an unknown one: all, or of many those that are alike."""
    if len(names) <= MAX_LISTED:
        return f"use one of {', '.join(names)}"
    alike = difflib.get_close_matches(name, names, cutoff=0.5)
    return f"perhaps {' or '.join(alike)} is meant" if alike else "`--help` of the command lists the names"


def short_help(text: str) -> str:
    """Return a help line for an error: of a long one what stands before its details."""
    return text if len(text) <= SHOWN_HELP else text.partition(":")[0].partition(";")[0]


def shown(value: Any) -> str:
    """Write a value in an error, shortened."""
    if value is None:
        return "an empty value"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) > 10**SHOWN_CHARACTERS:
        return f"a number of more than {SHOWN_CHARACTERS} digits"
    text = repr(value) if isinstance(value, int | float | str) else reprlib.repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


@functools.cache
def adapter_of(options: type[Options]) -> TypeAdapter[Any]:
    """Build what validates the fields of an option class; those with a default may be left out."""
    from pydantic import TypeAdapter
    from typing_extensions import NotRequired, TypedDict

    hints, kinds = get_type_hints(options), {}
    for item in dataclasses.fields(options):
        if item.init:
            kind = kind_of(hints[item.name], item)
            kinds[item.name] = kind if item.default is MISSING else NotRequired[kind]
    named: Any = TypedDict
    table = named(options.__name__, kinds)
    table.__pydantic_config__ = {"extra": "forbid"}
    return TypeAdapter(table)


def kind_of(hint: Any, item: dataclasses.Field[Any]) -> Any:
    """Return the type of a field for pydantic, with its bounds."""
    from pydantic import Field

    parts, is_needed = get_args(hint), item.default is MISSING
    if hint is str:
        is_needed = item.default != ""
    if type(None) in parts:
        return single_kind(parts[0], item.metadata, is_needed=is_needed) | None
    if get_origin(hint) is tuple:
        each: Any = single_kind(parts[0], item.metadata, is_needed=not item.metadata["allow_empty"], is_part=True)
        return Annotated[tuple[each, ...], Field(min_length=int(is_needed))]
    return single_kind(hint, item.metadata, is_needed=is_needed)


def single_kind(hint: Any, metadata: Mapping[str, Any], *, is_needed: bool, is_part: bool = False) -> Any:
    """Return the type of a value, or of a part of a list, for pydantic.

    Types are strict: a switch is not a number, and a number is not a text.
    """
    from pydantic import BeforeValidator, Field, InstanceOf, Strict

    if hint is str:
        choices = metadata["choices"]
        return Literal[choices] if choices else text_kind(metadata, is_needed=is_needed, is_part=is_part)
    bounds = {"ge": metadata["minimum"], "le": metadata["maximum"], "gt": metadata["above"], "lt": metadata["below"]}
    bounds = {name: value for name, value in bounds.items() if value is not None}
    if hint is int:
        return Annotated[int, Strict(), Field(**{"le": MAX_WHOLE} | bounds), BeforeValidator(whole)]
    if hint is float:
        return Annotated[float, Strict(), Field(allow_inf_nan=False, **bounds), BeforeValidator(number)]
    if hint is bool:
        return Annotated[bool, Strict(), BeforeValidator(switch)]
    return Annotated[hint, InstanceOf()] if isinstance(hint, type) and issubclass(hint, Options) else hint


def text_kind(metadata: Mapping[str, Any], *, is_needed: bool, is_part: bool = False) -> Any:
    """Return the type of a text for pydantic; as a part of a list it may be a blank, which is a token for instance."""
    from pydantic import AfterValidator, Strict
    from pydantic_core import PydanticCustomError

    def check(text: str) -> str:
        if is_needed and not (text if is_part else text.strip()):
            raise PydanticCustomError("empty", "empty")
        if "\0" in text:
            raise PydanticCustomError("nul", "NUL")
        if text and metadata["pattern"] and not metadata["pattern"].fullmatch(text):
            raise PydanticCustomError("pattern", "pattern")
        return text

    return Annotated[str, Strict(), AfterValidator(check)]


def is_text(value: Any, info: ValidationInfo) -> bool:
    """Whether a value was written as a text that may stand for a number or a switch."""
    return isinstance(value, str) and bool(info.context and info.context["as_text"])


def number_in(text: str) -> int | float | str:
    """Read a number, exactly where it is whole; a text that is none stays as it is."""
    try:
        value, exact = float(text), Decimal(text)
    except (ValueError, ArithmeticError):
        return text
    return int(exact) if math.isfinite(value) and exact == exact.to_integral_value() else value


def whole(value: Any, info: ValidationInfo) -> Any:
    """Read a whole number, which may be written as 2e5."""
    if is_text(value, info):
        is_written_out = any(character.isdigit() for character in value)
        value = number_in(value)
        value = 10 ** (SHOWN_CHARACTERS + 1) if value == math.inf and is_written_out else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def number(value: Any, info: ValidationInfo) -> Any:
    """Read a number; a whole one beyond all floats is infinite."""
    value = number_in(value) if is_text(value, info) else value
    return math.inf if isinstance(value, int) and abs(value) >= 2**1024 else value


def switch(value: Any, info: ValidationInfo) -> Any:
    """Read true or false, which may be written as yes or no, on or off."""
    return SWITCH_WORDS.get(value.lower(), value) if is_text(value, info) else value


def field_of(options: type, name: str) -> dataclasses.Field[Any]:
    """Find a field of an option class by its name."""
    return next(item for item in dataclasses.fields(options) if item.name == name)


def flag_of(name: str) -> str:
    """Name the flag of a field."""
    return f"-{name}" if len(name) == 1 else "--" + name.replace("_", "-")


def help_of(options: type, name: str) -> str:
    """Return the help line of a field."""
    return str(field_of(options, name).metadata["help"])


def arguments_of(options: Any, left_out: Sequence[str] = ()) -> list[str]:
    """Return the command-line arguments that give these options; what equals its default is left out.

    Args:
        options: of any class.
        left_out: fields that are given otherwise.
    """
    arguments: list[str] = []
    for item in dataclasses.fields(options):
        value = getattr(options, item.name)
        if item.name in left_out or (item.default is not MISSING and value == item.default):
            continue
        flag = flag_of(item.name)
        if isinstance(value, bool):
            arguments.append(flag)
        elif isinstance(value, tuple):
            for part in value:
                arguments += [flag, str(part)]
        else:
            arguments += [flag, str(value)]
    return arguments


def command_of(options: Options) -> str:
    """Return the command line that does what these options say; arguments by place come first."""
    placed = [getattr(options, name) for name in options.PLACED]
    words = [str(word) for value in placed for word in (value if isinstance(value, tuple) else [value])]
    return shlex.join(["clp", *options.COMMAND, *words, *arguments_of(options, left_out=options.PLACED)])
