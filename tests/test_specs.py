"""Specs: naming an entry of a table, with options."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unblot.errors import UnblotError
from unblot.process.schedules import SCHEDULES
from unblot.sampling.solvers import SOLVERS
from unblot.specs import build, canonical, options_of, parse, several, without_defaults


def thing(*args: int, width: int = 3, rate: float = 0.5, deep: bool = False, kind: str = "a") -> tuple:
    return args, width, rate, deep, kind


TABLE = {"thing": thing, "plain": lambda: "plain"}


def test_options_are_read_from_the_signature() -> None:
    assert options_of(thing) == {"width": 3, "rate": 0.5, "deep": False, "kind": "a"}
    assert build(TABLE, "thing:rate=2,deep=true,kind=b", "thing", 1, 2) == ((1, 2), 3, 2.0, True, "b")
    assert build(TABLE, "plain", "thing") == "plain"


@given(
    st.integers(-9, 99),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.from_regex("[a-z-]+", fullmatch=True),
)
def test_a_canonical_spec_says_all_and_stays_as_it_is(width: int, rate: float, deep: bool, kind: str) -> None:
    spec = f"thing:width={width},rate={rate!r},deep={deep},kind={kind}"
    assert parse(TABLE, spec, "thing") == ("thing", {"width": width, "rate": rate, "deep": deep, "kind": kind})
    assert canonical(TABLE, spec, "thing") == spec
    assert canonical(TABLE, "thing", "thing") == "thing:width=3,rate=0.5,deep=False,kind=a"


def test_a_spec_without_defaults_says_what_differs_from_them() -> None:
    assert without_defaults(TABLE, "thing:width=4,rate=0.5,deep=true", "thing") == "thing:width=4,deep=True"
    assert without_defaults(TABLE, "thing:width=3", "thing") == "thing"


def test_a_text_alone_is_the_first_option_where_that_is_a_text() -> None:
    def reader(*, model: str = "", width: int = 3) -> tuple[str, int]:
        return model, width

    assert build({"reader": reader}, "reader:./a/b", "reader") == ("./a/b", 3)
    with pytest.raises(UnblotError, match="no option 'a'"):
        build({"reader": reader}, "reader:width=2,a", "reader")
    with pytest.raises(UnblotError, match="no option 'a'"):
        build(TABLE, "thing:a", "thing")


def test_several_specs_are_joined_by_plus() -> None:
    both = "thing:width=3,rate=1e+20,deep=False,kind=a+plain"
    assert canonical(TABLE, "thing:rate=1e+20+plain", "thing") == canonical(TABLE, both, "thing") == both
    assert several(both) == [both.removesuffix("+plain"), "plain"]


@pytest.mark.parametrize("table", [SCHEDULES, SOLVERS])
def test_every_entry_is_built_from_its_canonical_spec(table) -> None:
    for name in table:
        spec = canonical(table, name, "entry")
        assert canonical(table, spec, "entry") == spec
        build(table, spec, "entry")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("thong", "unknown thing 'thong'; choose one of thing, plain"),
        ("", "unknown thing ''"),
        ("thing:depth=3", "no option 'depth=3'; its options are: width=3, rate=0.5"),
        ("thing:width", "no option 'width'"),
        ("plain:width=3", "no option 'width=3'; its options are: none"),
        ("thing:width=wide", "option 'width': 'wide' is not of type int"),
        ("thing:width=1.5", "option 'width': '1.5' is not of type int"),
        ("thing:deep=1", "'1' is neither true nor false"),
    ],
)
def test_what_is_wrong_with_a_spec_is_said_in_one_line(spec: str, said: str) -> None:
    with pytest.raises(UnblotError) as error:
        build(TABLE, spec, "thing")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
