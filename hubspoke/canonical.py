"""What counts of a template's text: two texts that differ in comments, white space or table aliases alone become one.

Jinja is not run: what stands between its braces counts letter by letter. A text that cannot be read as SQL counts as it
stands, so what is told apart here may run the same, but what is not told apart never runs differently.
"""

import re
from collections import Counter
from functools import lru_cache

from sqlglot import exp, parse_one, tokenize
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

_JINJA = re.compile(r"\{#.*?#\}|\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_PLAIN = re.compile(r"\{\{-?\s*(ref|source|var)\s*\([^{}]*\)\s*-?\}\}")
"""Jinja that names no alias of the query around it."""
_CONFIG = re.compile(r"\{\{-?\s*config\s*\(")
_MARK = re.compile(r"jinja_(\d+)_")
_KEYWORDS = set(DuckDB.Tokenizer.KEYWORDS.values())


@lru_cache(maxsize=20_000)
def canonical(text: str) -> str:
    """Return what counts of a SQL template: of a model, a test or a macro."""
    jinja: list[str] = []

    def mark(found: re.Match[str]) -> str:
        if found[0].startswith("{#"):
            return " "
        jinja.append(found[0])
        # a setting is no part of the query; the place of everything else is kept
        return " " if _CONFIG.match(found[0]) else f"jinja_{len(jinja) - 1}_"

    sql = _JINJA.sub(mark, text)
    try:
        tokens = tokenize(sql, dialect="duckdb")
    except SqlglotError:
        return text
    if any(_MARK.search(comment) for token in tokens for comment in token.comments):
        return text  # Jinja is run in comments, too
    names = _aliases(sql) if all(_PLAIN.match(piece) or _CONFIG.match(piece) for piece in jinja) else {}
    return "\n".join([*jinja, *(_said(token, names) for token in tokens)])


def _said(token: Token, names: dict[str, str]) -> str:
    if token.token_type in {TokenType.VAR, TokenType.IDENTIFIER} and token.text.lower() in names:
        return names[token.text.lower()]
    text = token.text.lower() if token.token_type in _KEYWORDS else token.text
    return f"{token.token_type.name} {text}"


def _aliases(sql: str) -> dict[str, str]:
    """Find what a query calls its tables by, and nothing else by: what it may as well call them, by their places."""
    try:
        query = parse_one(sql, dialect="duckdb")
    except (SqlglotError, RecursionError):
        return {}
    shown = (exp.Column, exp.Alias, exp.Star)
    if any(not isinstance(column, shown) for select in query.find_all(exp.Select) for column in select.expressions):
        return {}  # a column without a name of its own is called by its text
    given: dict[str, None] = {}
    otherwise: Counter[str] = Counter()
    for identifier in query.find_all(exp.Identifier, bfs=False):
        name, parent = identifier.name.lower(), identifier.parent
        if isinstance(parent, exp.TableAlias) and parent.this is identifier:
            given[name] = None
        elif isinstance(parent, exp.Table) and parent.this is identifier and not parent.args.get("db"):
            pass  # of a table there is no telling here whether it is one of the query's own; if not, it has no alias
        elif not (isinstance(parent, exp.Column) and parent.args.get("table") is identifier):
            otherwise[name] += 1
    # words that are no identifiers to the parser, such as functions, keep their names
    words = Counter(word.lower() for word in re.findall(r"\w+", sql))
    found = Counter(identifier.name.lower() for identifier in query.find_all(exp.Identifier))
    own = [name for name in given if not otherwise[name] and words[name] == found[name] and not _MARK.match(name)]
    return {name: f"TABLE {place}" for place, name in enumerate(own)}
