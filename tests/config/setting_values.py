"""Values of settings for property tests: in and around the limits, of the wrong type, and out of every range."""

from typing import Any, Literal, get_args, get_origin

from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from imagecap.config import section_class

NUMBERS = st.one_of(
    st.floats(),
    st.integers(),
    st.sampled_from([0, 1, 2, -1, 2**31, 2**63 - 1, 2**63, -(2**63), 2**64, 10**400, 10**4000, 0.5, -0.0]),
    st.sampled_from([1e-45, 1e-40, 1e-7, 1e-6, 1e-3, 1e6, 1e38, 1e39, 1e308, float("inf"), float("nan")]),
)
WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.text(st.characters(codec=None), max_size=8),
    st.sampled_from(["\ud800", "\udc80", "\0", "nan", "-inf", "1e-40", "1e400", "9" * 5000, "true", "none", "٣"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=1),
    st.binary(max_size=3),
)


def allowed_numbers(field: FieldInfo, kind: type) -> st.SearchStrategy[Any]:
    """Numbers of a field within its limits, the limits themselves often among them."""
    limits = {
        name: getattr(each, name) for each in field.metadata for name in ("gt", "ge", "lt", "le") if hasattr(each, name)
    }
    low, high = limits.get("ge", limits.get("gt", 0)), limits.get("le", limits.get("lt", 1))
    if kind is int:
        return st.integers(low + ("gt" in limits), high - ("lt" in limits)) | st.integers(low + 1, min(low + 9, high))
    return st.floats(low, high, exclude_min="gt" in limits, exclude_max="lt" in limits) | st.floats(
        low, min(high, low + 2), exclude_min=True
    )


def allowed(field: FieldInfo) -> st.SearchStrategy[Any]:
    """Values of the type of a field."""
    kinds: list[Any] = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
    if get_origin(field.annotation) is Literal:
        return st.sampled_from(get_args(field.annotation))
    if get_origin(kinds[0]) is Literal:
        return st.sampled_from(get_args(kinds[0]))
    if kinds[0] is bool:
        return st.booleans()
    return st.text(max_size=8) if kinds[0] is str else allowed_numbers(field, kinds[0])


def settings_of(section: str, *, wrong: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    """Some settings of a section, by name; with `wrong` any values, else values of the right type and range."""
    fields = section_class(section).model_fields
    values = {name: allowed(field) | NUMBERS | WRONG if wrong else allowed(field) for name, field in fields.items()}
    one_wrong = st.one_of(*(st.fixed_dictionaries({name: NUMBERS | WRONG}) for name in fields))
    right = st.fixed_dictionaries({}, optional={name: allowed(field) for name, field in fields.items()})
    if not wrong:
        return right
    anything = st.fixed_dictionaries({}, optional=values)
    return right | anything | st.tuples(right, one_wrong).map(lambda pair: pair[0] | pair[1])
