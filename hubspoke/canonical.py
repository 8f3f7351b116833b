"""What counts of a model's text: two that differ in comments, white space, keywords' case or aliases become one.

Jinja is not run: what stands between its braces counts letter by letter. A text that cannot be read for sure counts as
it stands, so what is told apart here may run the same; what is not told apart runs the same. (One case is not seen: a
column that is a struct, called by the same name as an alias.)
"""

import json
import re
from collections import Counter
from functools import lru_cache
from itertools import pairwise

from sqlglot import exp, parse_one, tokenize
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

JINJA = re.compile(r"\{#.*?#\}|\{\{.*?\}\}", re.DOTALL)
REFERENCE = re.compile(
    r"""\{\{-?\s*(ref|source)\(\s*(['"])\w+\2(\s*,\s*((['"])\w+\5|v(ersion)?\s*=\s*\d+))*\s*\)\s*-?\}\}"""
)
"""Jinja that names no alias of the query around it."""
TRIMMED = re.compile(r"\{[{#%][-+]|[-+][}#%]\}")
"""Jinja that takes away or keeps white space around it: a comment's end, maybe."""
CONFIG = re.compile(r"\{\{-?\s*config\s*\(")
_MARK = "jinja_piece_"
_KEYWORDS = (
    "all and anti any as asc asof both by case cast cross desc distinct else end except false fetch from full glob "
    "group having ilike in inner intersect is isnull join lateral left like limit natural not notnull null offset on "
    "or order outer positional qualify right select semi similar some symmetric then true union unique using when "
    "where window with"
)
KEYWORDS = frozenset(_KEYWORDS.split())
"""Words whose case does not count: they name a column only after "as" or a dot."""


@lru_cache(maxsize=20_000)
def canonical(text: str) -> str:
    """Return what counts of the text of a model or a test, Jinja included."""
    if "{%" in text or TRIMMED.search(text) or _MARK in text.lower():
        return text
    jinja: list[str] = []

    def mark(found: re.Match[str]) -> str:
        if found[0].startswith("{#"):
            return " "
        jinja.append(found[0])
        # a setting is no part of the query; the place of everything else is kept
        return " " if CONFIG.match(found[0]) else f"{_MARK}{len(jinja) - 1}_"

    sql = JINJA.sub(mark, text)
    try:
        tokens = tokenize(sql, dialect="duckdb")
    except SqlglotError:
        return text
    kinds = [token.token_type for token in tokens]
    if any(one == other == TokenType.STRING for one, other in pairwise(kinds)):
        return text  # a line between two makes one of them
    if any(_MARK in comment for token in tokens for comment in token.comments):
        return text  # Jinja is run in comments, too
    names = _aliases(sql, jinja)
    said = [_said(token, before, names) for before, token in zip([None, *kinds], tokens, strict=False)]
    return json.dumps([jinja, said])


def _said(token: Token, before: TokenType | None, names: dict[str, int]) -> tuple[str, str | int]:
    kind, text = token.token_type, token.text
    if kind in {TokenType.VAR, TokenType.IDENTIFIER}:
        return ("TABLE", names[text.lower()]) if text.lower() in names else (kind.name, text)
    if kind != TokenType.STRING and before not in {TokenType.ALIAS, TokenType.DOT}:
        words = text.lower().split()  # "group by" is one token
        if words and words[-1] in KEYWORDS:
            return kind.name, " ".join(words)
    return kind.name, text


def _aliases(sql: str, jinja: list[str]) -> dict[str, int]:
    """Find what a query calls its tables by, and nothing else by: what it may as well call them, by their places."""
    if not all(REFERENCE.fullmatch(piece) or CONFIG.match(piece) for piece in jinja):
        return {}
    try:
        query = parse_one(sql, dialect="duckdb")
    except (SqlglotError, RecursionError):
        return {}
    shown = (exp.Column, exp.Alias, exp.Star)
    if any(not isinstance(column, shown) for select in query.find_all(exp.Select) for column in select.expressions):
        return {}  # a column without a name of its own is called by its text
    given: dict[str, None] = {}
    otherwise: Counter[str] = Counter()
    tables = set()
    for identifier in query.find_all(exp.Identifier, bfs=False):
        name, parent = identifier.name.lower(), identifier.parent
        if isinstance(parent, exp.TableAlias) and parent.this is identifier:
            given[name] = None
        elif isinstance(parent, exp.Table) and parent.this is identifier and not parent.args.get("db"):
            tables.add(name)
        elif not (isinstance(parent, exp.Column) and parent.args.get("table") is identifier):
            otherwise[name] += 1
    with_queries = {table.alias.lower() for table in query.find_all(exp.CTE)}
    if any(not name.startswith(_MARK) and name not in with_queries for name in tables):
        return {}  # a table of the hub by its bare name
    # words that are no identifiers to the parser, such as functions, keep their names
    words = Counter(word.lower() for word in re.findall(r"\w+", sql))
    found = Counter(identifier.name.lower() for identifier in query.find_all(exp.Identifier))
    relations = {word.lower() for piece in jinja for word in re.findall(r"['\"](\w+)['\"]", piece)}
    own = [
        name
        for name in given
        if not otherwise[name]
        and words[name] == found[name]
        and not any(re.fullmatch(rf"{relation}(_v\d+)?", name) for relation in relations)
    ]
    return {name: place for place, name in enumerate(own)}
