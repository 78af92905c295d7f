"""A Hypothesis strategy for JSON schemas of the kinds that people send."""

from __future__ import annotations

from hypothesis import strategies as st

PATTERNS = (r"^[a-z]{2,5}$", r"^\d{3}-\d{4}$", r"^(foo|bar)+$", "[0-9]{2}", r"^[^\s]{0,6}$", "^é+x?$", r"^\w+@\w+$")
NAMES = ("id", "name", "näme", "a b", 'quo"te', "x_1", "back\\slash", "line\nbreak", "世界", "<|im_end|>", "$ref!")
TEXTS = (*NAMES, "", "<tool_call>", "😀", "/", "\b\f\n\r\t", "\u2028\u00a0", "true")

bounds = st.integers(-1000, 1000)
small = st.integers(0, 6)


def ranged(low, high):
    """Two keywords, or one of them, or none, with bounds in order."""

    def of(pair):
        first, second = sorted(pair)
        return st.sampled_from(({low: first, high: second}, {low: first}, {high: second}, {}))

    return of


@st.composite
def strings(draw):
    schema = {"type": "string"}
    kind = draw(st.sampled_from(("plain", "length", "pattern")))
    if kind == "length":
        schema |= draw(st.tuples(small, small).flatmap(ranged("minLength", "maxLength")))
    if kind == "pattern":
        schema["pattern"] = draw(st.sampled_from(PATTERNS))
    return schema


@st.composite
def numbers(draw):
    schema = {"type": draw(st.sampled_from(("integer", "number")))}
    low = draw(st.sampled_from(("minimum", "exclusiveMinimum")))
    high = draw(st.sampled_from(("maximum", "exclusiveMaximum")))
    low_value = draw(bounds)
    pair = st.tuples(st.just(low_value), st.integers(low_value + 20, low_value + 2000))
    schema |= draw(pair.flatmap(ranged(low, high)))
    if schema["type"] == "integer" and draw(st.booleans()):
        schema["multipleOf"] = draw(st.integers(1, 9))
    return schema


values = st.one_of(st.sampled_from(TEXTS), st.integers(-99, 99), st.booleans(), st.none())
leaves = st.one_of(
    strings(),
    numbers(),
    st.builds(lambda: {"type": "boolean"}),
    st.builds(lambda: {"type": "null"}),
    st.builds(lambda options: {"enum": options}, st.lists(values, min_size=1, max_size=4)),
    st.builds(lambda value: {"const": value}, st.one_of(values, st.lists(values, max_size=3))),
    st.builds(lambda types: {"type": types}, st.lists(st.sampled_from(("string", "integer", "null")), min_size=1)),
    st.sampled_from(({"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/tree"}, {})),
)


def arrays(items):
    return st.builds(
        lambda item, size: {"type": "array", "items": item, **size},
        items,
        st.tuples(small, small).flatmap(ranged("minItems", "maxItems")),
    )


def tuples(items):
    return st.builds(
        lambda prefix, rest: {"type": "array", "prefixItems": prefix, "items": rest},
        st.lists(items, min_size=1, max_size=3),
        st.one_of(items, st.just(False)),
    )


@st.composite
def objects(draw, items):
    properties = draw(st.dictionaries(st.sampled_from(NAMES), items, max_size=4))
    schema = {"type": "object", "properties": properties}
    required = [name for name in properties if draw(st.booleans())]
    if required:
        schema["required"] = required
    more = draw(st.one_of(st.just(False), st.just(True), st.none(), items))
    if more is not None:
        schema["additionalProperties"] = more
    if draw(st.integers(0, 4)) == 0:
        schema["patternProperties"] = {"^p_": draw(items)}
    if draw(st.integers(0, 4)) == 0:
        schema["allOf"] = [{"type": "object", "properties": {"extra": draw(leaves)}}]
        schema.pop("additionalProperties", None)
    return schema


def branches(items):
    choice = st.builds(lambda options: {"anyOf": options}, st.lists(items, min_size=1, max_size=3))
    return st.one_of(arrays(items), tuples(items), objects(items), choice)


@st.composite
def schemas(draw):
    """A whole schema, with definitions to refer to, one of them recursive."""
    schema = dict(draw(st.recursive(leaves, branches, max_leaves=12)))
    tree = {"type": "object", "properties": {"v": draw(leaves.filter(lambda leaf: "$ref" not in leaf))}}
    tree["properties"]["kids"] = {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}
    return {**schema, "$defs": {"leaf": draw(st.one_of(strings(), numbers())), "tree": tree}}
