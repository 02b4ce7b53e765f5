"""What an error says of the value it was given."""

from __future__ import annotations

from graphs.errors import GraphsError, OperatorParameterError


def test_none_that_was_received_is_shown_and_what_was_not_given_is_not() -> None:
    assert str(GraphsError("a name is text", received=None)) == "a name is text; received None."
    assert str(GraphsError("a name is text")) == "a name is text."
    assert GraphsError("a name is text").received is None


def test_the_place_of_an_error_keeps_its_type_and_fields() -> None:
    error = OperatorParameterError("bad", received=None, allowed="good", next_step="do well").at("row 3")
    assert type(error) is OperatorParameterError
    assert str(error) == "row 3: bad; received None; allowed: good; do well."
    assert str(GraphsError("bad").at("row 3")) == "row 3: bad."
