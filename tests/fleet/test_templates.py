"""Templates reach the fields of their item and nothing else."""

import pytest

from fleet.errors import BadInput
from fleet.templates import fields, render


def test_fields_stand_for_their_values():
    assert render("On {title}: {n}, {tags} {{so}}", {"title": "a {b}", "n": 3, "tags": ["ä"]}) == (
        'On a {b}: 3, ["ä"] {so}'
    )
    assert fields("{a} {b} {a} {{c}}") == ["a", "b"]
    assert render("nothing", {}) == "nothing"


@pytest.mark.parametrize(
    "template", ["{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{}", "{0}", "{a", "a}", "{__class__.x}", "{a:{b}}", "{ a}"]
)
def test_what_is_more_than_a_name_is_refused(template):
    with pytest.raises(BadInput, match=r"template "):
        fields(template)


def test_a_missing_field_is_told_with_those_there_are():
    with pytest.raises(BadInput, match=r"there is no field 'x'; there are: a, b"):
        render("{x}", {"b": 1, "a": 2})
