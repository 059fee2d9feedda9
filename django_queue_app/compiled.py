"""Statements that the ORM builds once for each connection; later calls bring only their values.

To build a query costs the ORM several times what the database needs to answer it, and a worker's
poll, claim and completion always ask the same. Conditions are still written once, as querysets:
`Given` stands in them for a value that each call brings.
`docs/decisions/0032-compiled-statements.md` has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

from django.db import connection, connections, models
from django.db.models.expressions import Expression
from django.db.models.sql.subqueries import InsertQuery, UpdateQuery
from django.db.transaction import mark_for_rollback_on_error

AnyModel = TypeVar("AnyModel", bound=models.Model)
Row = tuple[Any, ...]


class Given(Expression):
    """A value that each call brings, by its name.

    Parameters
    ----------
    name : str
        Under which the statement is given it.
    of : Field
        The column that it is compared with or written to; it says how the database is told.
    """

    def __init__(self, name: str, of: models.Field[Any, Any]) -> None:
        super().__init__(output_field=of)
        self.name = name
        self.of = of

    def as_sql(self, compiler: Any, connection: Any) -> Any:  # noqa: ARG002
        """Leave a place for the value."""
        return "%s", [self]


def given(model: type[models.Model], column: str, name: str = "") -> Any:
    """Return a `Given` for a column of a model, by the column's name or another."""
    return Given(name or column, model._meta.get_field(column))  # type: ignore[arg-type]


def columns_given(model: type[models.Model], *columns: str) -> dict[str, Any]:
    """Return several, each by its column's name, as keyword arguments."""
    return {column: given(model, column) for column in columns}


@dataclass(frozen=True)
class _Text:
    sql: str
    params: Sequence[Any]
    converters: Sequence[tuple[int, Sequence[Callable[..., Any]], Any]] = ()

    def filled(self, values: Mapping[str, Any]) -> list[Any]:
        return [
            one.of.get_db_prep_save(values[one.name], connection) if isinstance(one, Given) else one
            for one in self.params
        ]

    def converted(self, row: Row) -> Row:
        values = list(row)
        for place, converters, expression in self.converters:
            for convert in converters:
                values[place] = convert(values[place], expression, connection)
        return tuple(values)


class _Statement:
    def __init__(self) -> None:
        # Each thread has a connection of its own, so nothing here is shared by two.
        self._texts: WeakKeyDictionary[Any, _Text] = WeakKeyDictionary()

    def _text(self) -> _Text:
        own = connections[connection.alias]
        text = self._texts.get(own)
        if text is None:
            text = self._texts[own] = self._build(own)
        return text

    def _build(self, own: Any) -> _Text:
        raise NotImplementedError

    def write(self, together: Together | None, **values: Any) -> None:
        """Write now, or leave it to `together`; nobody asks whether there was a row."""
        text = self._text()
        if together is None:
            _send(text.sql, text.filled(values))
        else:
            together.add(text.sql, text.filled(values))


class Together:
    """Writes that go to the database in one message, where it takes several in one.

    Use it as a context inside a transaction; they go when it ends without an error.
    """

    def __init__(self) -> None:
        self._writes: list[tuple[str, list[Any]]] = []

    def add(self, sql: str, params: list[Any]) -> None:
        """Keep one for the end."""
        self._writes.append((sql, params))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        # Only PostgreSQL's features tell: with parameters bound there it takes one at a time.
        if not getattr(connection.features, "uses_server_side_binding", True):
            sql = "; ".join(sql for sql, _ in self._writes)
            _send(sql, [one for _, params in self._writes for one in params])
            return
        for sql, params in self._writes:
            _send(sql, params)


def _send(sql: str, params: Sequence[Any]) -> int:
    with mark_for_rollback_on_error(connection.alias), connection.cursor() as cursor:
        cursor.execute(sql, params)
        return int(cursor.rowcount)


class Select(_Statement):
    """A query.

    Parameters
    ----------
    make : callable
        Returns the queryset, of `values_list` or of whole instances.
    """

    def __init__(self, make: Callable[[], models.QuerySet[Any, Any]]) -> None:
        super().__init__()
        self._make = make

    def rows(self, **values: Any) -> list[Row]:
        """Return the rows of the query with these values."""
        text = self._text()
        with connection.cursor() as cursor:
            cursor.execute(text.sql, text.filled(values))
            return [text.converted(row) for row in cursor.fetchall()]

    def _build(self, own: Any) -> _Text:
        compiler = self._make().query.get_compiler(connection=own)
        sql, params = compiler.as_sql()
        selected = enumerate(one for one, _, _ in compiler.select)
        converters = [
            (place, [*own.ops.get_db_converters(one), *one.get_db_converters(own)], one)
            for place, one in selected
        ]
        return _Text(sql, params, [one for one in converters if one[1]])


class Update(_Statement):
    """An UPDATE.

    Parameters
    ----------
    make : callable
        Returns the queryset of the rows, and what is written.
    """

    def __init__(
        self, make: Callable[[], tuple[models.QuerySet[Any, Any], Mapping[str, Any]]]
    ) -> None:
        super().__init__()
        self._make = make

    def execute(self, **values: Any) -> int:
        """Write these values; return the number of rows."""
        text = self._text()
        return _send(text.sql, text.filled(values))

    def _build(self, own: Any) -> _Text:
        rows, written = self._make()
        query: Any = rows.query.chain(UpdateQuery)
        query.add_update_values(dict(written))
        return _Text(*query.get_compiler(connection=own).as_sql())


class Insert(_Statement):
    """An INSERT of one row; columns that the instance doesn't name get their plain default.

    Parameters
    ----------
    make : callable
        Returns the instance.
    """

    def __init__(self, make: Callable[[], models.Model]) -> None:
        super().__init__()
        self._make = make

    def _build(self, own: Any) -> _Text:
        instance = self._make()
        query = InsertQuery(type(instance))
        fields = [
            one for one in instance._meta.concrete_fields if not isinstance(one, models.AutoField)
        ]
        query.insert_values(fields, [instance])
        ((sql, params),) = query.get_compiler(connection=own).as_sql()
        return _Text(sql, params)


def instance_of(model: type[AnyModel], row: Row, start: int = 0) -> tuple[AnyModel, int]:
    """Return the instance whose columns begin at `start` of a row, and where they end."""
    names = [one.attname for one in model._meta.concrete_fields]
    end = start + len(names)
    return model.from_db(connection.alias, names, row[start:end]), end
