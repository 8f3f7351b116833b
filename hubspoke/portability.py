"""The rules by which SQL says the same to DuckDB and to Apache Spark, held against the text of models and tests.

A company that outgrows one machine takes its models along as they are. So nothing may stand in one that another engine
refuses or, worse, reads otherwise; where engines differ, a macro in ``macros/`` has the difference. The text is read as
it was written, token by token: what Jinja puts into it comes from a macro, and Jinja itself counts as one name.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import yaml
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import TokenError
from sqlglot.tokenizer_core import Token, TokenType

DISPATCHED = "a macro of macros/ with a version for each engine"

FUNCTIONS = {
    **dict.fromkeys(("date_diff", "datediff", "datesub", "date_sub"), "dbt.datediff(first, second, part)"),
    **dict.fromkeys(("date_add", "dateadd"), "dbt.dateadd(part, number, date)"),
    **dict.fromkeys(("today", "get_current_timestamp", "getdate"), "current_date, or a column of the load"),
    **dict.fromkeys(("strftime", "date_format", "strptime", "try_strptime", "to_timestamp"), DISPATCHED),
    **dict.fromkeys(("epoch", "epoch_ms", "make_date"), DISPATCHED),
    **dict.fromkeys(("dayofweek", "weekday", "isodow", "weekofyear", "yearweek"), "a seed or model of dates"),
    **dict.fromkeys(("string_agg", "group_concat", "listagg", "list", "array_agg"), "rows, one for each value"),
    **dict.fromkeys(
        ("unnest", "explode", "generate_series", "sequence", "range"), "rows of a model, of dates for example"
    ),
    **dict.fromkeys(("struct_pack", "row", "map", "list_value", "array"), "columns"),
    **dict.fromkeys(("hash", "md5_number", "xxhash64"), "the columns themselves, or dbt.hash(text)"),
    **dict.fromkeys(("regexp_replace", "regexp_extract", "regexp_matches", "rlike"), DISPATCHED),
    **dict.fromkeys(("arg_max", "arg_min", "max_by", "min_by"), "row_number() in a step of its own, and a filter"),
    **dict.fromkeys(("quantile_cont", "quantile_disc", "quantile", "percentile", "approx_quantile"), DISPATCHED),
    **dict.fromkeys(("any_value", "first", "last", "arbitrary"), "min or max: any value is not always the same one"),
    **dict.fromkeys(("len", "strlen"), "length"),
    **dict.fromkeys(("concat", "format", "printf"), "coalesce(a, '') || coalesce(b, ''): of null, engines differ"),
    **dict.fromkeys(("if", "ifnull", "nvl", "iff"), "case when … end, or coalesce"),
    **dict.fromkeys(("string_split", "split", "split_part", "str_split"), "dbt.split_part(text, delimiter, number)"),
    **dict.fromkeys(("random", "rand", "uuid", "gen_random_uuid"), "a column: a model gives the same rows each time"),
    "count_if": "sum(case when … then 1 else 0 end)",
    "log": "ln: the base that log has is another",
    "even": "round(value, 0)",
    "date_trunc": "cast(dbt.date_trunc(part, date) as date): engines give another type",
    "last_day": "dbt.last_day(date, part)",
    "strpos": "dbt.position(part, text)",
    "instr": "dbt.position(part, text)",
}
"""Functions that one of the engines lacks, or that the two take otherwise, and what says the same to both."""

TYPES = {"bigint", "int", "integer", "double", "decimal", "date", "timestamp", "boolean"}
"""Types that have one name everywhere; ``dbt.type_string()`` is the other."""

SQL_IN_YAML = {"expression", "where"}
"""Keys under which a rule in YAML has SQL."""

JINJA = "jinja_"
"""What a Jinja expression becomes, filled up to its width."""


@dataclass(frozen=True)
class Fault:
    """A place where a text would not say the same to another engine.

    Attributes:
        file: The text's path in the project.
        line: Line in it.
        what: What stands there.
        remedy: What to write instead.
    """

    file: str
    line: int
    what: str
    remedy: str

    def __str__(self) -> str:
        """``file:line: what; write remedy``."""
        return f"{self.file}:{self.line}: {self.what}; write {self.remedy}"


Tokens = list[Token]
Found = Iterator[tuple[Token, str, str]]


def functions(tokens: Tokens, _text: str) -> Found:
    """A function that one engine lacks or takes otherwise."""
    for token, following in pairwise(tokens):
        remedy = FUNCTIONS.get(token.text.lower())
        if remedy and following.token_type is TokenType.L_PAREN and token.token_type is not TokenType.STRING:
            yield token, f"{token.text.lower()}() is not the same on every engine", remedy


def signs(tokens: Tokens, _text: str) -> Found:
    """Signs and words of one engine's SQL."""
    spoken = {
        TokenType.DCOLON: ("a cast by ::", "cast(value as type)"),
        TokenType.QUALIFY: ("qualify", "the window in a step of its own, and where"),
        TokenType.DIV: ("division by //", "floor(a / nullif(b, 0)), cast to a whole number"),
        TokenType.DSTAR: ("** as a power", "power(a, b)"),
        TokenType.L_BRACKET: ("a list, or a place in one", "rows, or columns"),
        TokenType.L_BRACE: ("a struct", "columns"),
        TokenType.INTERVAL: ("an interval", "dbt.dateadd(part, number, date)"),
        TokenType.ASOF: ("an asof join", "a join by a range, and row_number()"),
        TokenType.PIVOT: ("pivot", "case when … end for each column"),
        TokenType.UNPIVOT: ("unpivot", "union all, a select for each column"),
        TokenType.ARROW: ("->, a lambda or JSON", "columns, from staging on"),
    }
    for token in tokens:
        if token.token_type in spoken:
            yield token, *spoken[token.token_type]
        elif token.text.lower() in {"tablesample", "sample"}:
            yield token, "a sample", "a filter on a key"


def stars(tokens: Tokens, _text: str) -> Found:
    """A star that leaves columns out or replaces some."""
    for token, following in pairwise(tokens):
        if token.token_type is TokenType.STAR and following.text.lower() in {"exclude", "replace", "rename"}:
            yield following, f"* {following.text.lower()}", "the columns"


def names(tokens: Tokens, text: str) -> Found:
    """A name in double quotes: to Spark it is a text."""
    for token in tokens:
        if text[token.start] == '"':
            yield token, f"a name in double quotes, {text[token.start : token.end + 1]}", "a plain name"


def literals(tokens: Tokens, text: str) -> Found:
    """A text with a backslash or a quote in it: engines unescape it differently."""
    for token in tokens:
        written = text[token.start + 1 : token.end]
        if token.token_type is TokenType.STRING and ("\\" in written or "'" in written):
            yield token, f"a text with a backslash or a quote in it, '{written}'", "it into a seed or a variable"


def orders(tokens: Tokens, _text: str) -> Found:
    """An order that leaves open where null goes."""
    for place, token in enumerate(tokens):
        if token.token_type is not TokenType.ORDER_BY:
            continue
        for item in _items(tokens, place + 1):
            if [part.text.lower() for part in item[-2:-1]] != ["nulls"]:
                yield item[0], "an order that does not say where null goes", "nulls first, or nulls last"


def types(tokens: Tokens, _text: str) -> Found:
    """A cast to a type that one engine lacks or calls otherwise."""
    for place, token in enumerate(tokens):
        if token.text.lower() not in {"cast", "try_cast"} or tokens[place + 1].token_type is not TokenType.L_PAREN:
            continue
        [inside] = _items(tokens, place + 2, at_comma=False)
        named = [number for number, part in enumerate(inside) if part.token_type is TokenType.ALIAS]
        kind = inside[named[-1] + 1]
        if kind.text.lower() not in TYPES and not kind.text.startswith(JINJA):
            remedy = "{{ dbt.type_string() }}" if "char" in kind.text.lower() or kind.text.lower() == "text" else ""
            yield kind, f"a cast to {kind.text.lower()}", remedy or f"one of {', '.join(sorted(TYPES))}"


def divisors(tokens: Tokens, _text: str) -> Found:
    """A division by what may be zero: one engine gives null, another infinity or an error. No group has no rows."""
    for place, (token, following) in enumerate(pairwise(tokens)):
        if token.token_type is not TokenType.SLASH:
            continue
        is_number = following.token_type is TokenType.NUMBER and float(following.text) != 0
        divisor = "".join(part.text.lower() for part in tokens[place + 1 : place + 5])
        if not is_number and not divisor.startswith(("nullif(", "count(*)", JINJA)):
            yield token, "a division by what may be zero", "/ nullif(divisor, 0)"


def ranks(tokens: Tokens, _text: str) -> Found:
    """A place in an order: a bigint to one engine, an int to the other."""
    for place, token in enumerate(tokens):
        before = [part.text.lower() for part in tokens[max(place - 2, 0) : place]]
        if token.text.lower() in {"rank", "dense_rank", "ntile"} and before != ["cast", "("]:
            following = tokens[place + 1 : place + 2]
            if following and following[0].token_type is TokenType.L_PAREN:
                yield token, f"{token.text.lower()}() is of another type on each engine", "cast(… over (…) as bigint)"


OF_SQL: dict[str, Callable[[Tokens, str], Found]] = {
    rule.__name__: rule for rule in (functions, signs, stars, names, literals, orders, types, divisors, ranks)
}
"""What is looked for in SQL."""

OF_JINJA = {
    r"target\.type|adapter\.type\s*\(": ("a branch by engine", DISPATCHED),
    r"dbt\.safe_cast\b": ("dbt.safe_cast", "try_cast(value as type)"),
    r"dbt\.listagg\b": ("dbt.listagg, which is not ordered everywhere", "rows, one for each value"),
    r"dbt\.string_literal\b": ("dbt.string_literal", "the text in quotes"),
}
"""What is looked for in the Jinja of models and tests."""


def faults(root: Path) -> list[Fault]:
    """Look through the project's models and singular tests, and the SQL that rules are given in YAML.

    Args:
        root: The project's root.

    Returns:
        Faults, by file and line.
    """
    found = []
    for folder in ("models", "tests"):
        for file in sorted((root / folder).rglob("*")):
            name = str(file.relative_to(root))
            if file.suffix == ".sql":
                found += faults_of(name, file.read_text())
            elif file.suffix in {".yml", ".yaml"}:
                for line, expression in _expressions(yaml.compose(file.read_text())):
                    found += [replace(fault, line=line + fault.line) for fault in faults_of(name, expression)]
    return found


def _expressions(node: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """Yield what is SQL in a YAML file, and the number of lines before it."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _expressions(item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value in SQL_IN_YAML and isinstance(value, yaml.ScalarNode):
                yield value.start_mark.line, value.value
            else:
                yield from _expressions(value)


def faults_of(file: str, text: str) -> list[Fault]:
    """Look through one text."""
    found = []
    for pattern, (what, remedy) in OF_JINJA.items():
        for match in re.finditer(pattern, text):
            found.append(Fault(file, text.count("\n", 0, match.start()) + 1, what, remedy))
    plain = without_jinja(text)
    try:
        tokens = DuckDB().tokenize(plain)
    except TokenError:
        return found  # dbt tells of what is no SQL at all
    for rule in OF_SQL.values():
        found += [Fault(file, token.line, what, remedy) for token, what, remedy in rule(tokens, plain)]
    return sorted(found, key=lambda fault: fault.line)


def without_jinja(text: str) -> str:
    """Return a text of the same length in which each Jinja expression is a name, and all other Jinja is blank."""

    def blank(match: re.Match[str]) -> str:
        written = match[0]
        if not written.startswith("{{"):
            return re.sub(r"[^\n]", " ", written)
        name = JINJA.ljust(len(written), "_")
        return "".join("\n" if sign == "\n" else letter for sign, letter in zip(written, name, strict=True))

    return re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", blank, text, flags=re.DOTALL)


def _items(tokens: Tokens, start: int, at_comma: bool = True) -> list[Tokens]:
    """Return what is listed from a token on, up to the end of the list."""
    ends = {TokenType.ROWS, TokenType.RANGE, TokenType.LIMIT, TokenType.OFFSET, TokenType.SEMICOLON, TokenType.UNION}
    items: list[Tokens] = [[]]
    depth = 0
    for token in tokens[start:]:
        if depth == 0 and (token.token_type is TokenType.R_PAREN or token.token_type in ends):
            break
        depth += (token.token_type is TokenType.L_PAREN) - (token.token_type is TokenType.R_PAREN)
        if at_comma and depth == 0 and token.token_type is TokenType.COMMA:
            items.append([])
        else:
            items[-1].append(token)
    return [item for item in items if item]
