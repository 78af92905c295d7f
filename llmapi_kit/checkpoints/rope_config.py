"""Rotary position embeddings as config.json tells of them; only where each field of them is understood.

Older files say it in `rope_theta` and `rope_scaling`, newer ones in `rope_parameters`, and some families have one
embedding for each kind of layer. Free of torch: `checkpoints/rotation` makes frequencies of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from llmapi_kit.checkpoints.config_fields import is_number, positive, require, size

RopeKind = Literal["default", "linear", "llama3", "yarn", "longrope"]
# Numbers that each kind needs, and those that it may have
NUMBERS: dict[RopeKind, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
    "longrope": (),
}
MORE_NUMBERS: dict[str, tuple[str, ...]] = {
    "yarn": ("beta_fast", "beta_slow", "attention_factor"),
    "longrope": ("factor", "original_max_position_embeddings", "attention_factor"),
}
MORE_FIELDS = {"yarn": {"truncate"}, "longrope": {"short_factor", "long_factor"}}
LAYER_KINDS = ("full_attention", "sliding_attention")


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding; a field that its kind does not use is as it is here.

    Attributes:
        kind: how frequencies are scaled, as transformers' `rope_type`.
        theta: the longest wavelength, in positions.
        partial_rotary_factor: what share of a head's numbers is turned.
        factor: positions are stretched by it.
        low_freq_factor: wavelengths above the original context by this factor are stretched, ...
        high_freq_factor: ... those below it by this one are not, and those between are in part.
        original_max_position_embeddings: the context in training.
        beta_fast: turns in the original context from which a wave is not stretched, by YaRN, ...
        beta_slow: ... and up to which it is as a whole.
        attention_factor: of cosines and sines; 0 for what YaRN and LongRoPE take by `factor`.
        truncate: whether the bounds that the two come to are whole numbers.
        short_factor: of each wavelength, in sequences up to the original context, by LongRoPE, ...
        long_factor: ... and in longer ones.
    """

    kind: RopeKind
    theta: float
    partial_rotary_factor: float = 1.0
    factor: float = 0.0
    low_freq_factor: float = 0.0
    high_freq_factor: float = 0.0
    original_max_position_embeddings: float = 0.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 0.0
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()


def read_ropes(values: Mapping[str, Any], *, is_by_layer: bool, is_of_phi: bool) -> dict[str, Rope]:
    """The rotary embeddings of a configuration: by the kind of layer, or one for all by an empty name.

    Args:
        values: of config.json.
        is_by_layer: whether each kind of layer has its own.
        is_of_phi: whether the family looks at ``partial_rotary_factor``, and at the original context beside the rotary
            embedding.

    Raises:
        UnknownValueError: transformers has to judge them.
    """
    given = [values[name] for name in ("rope_scaling", "rope_parameters") if values.get(name) is not None]
    require(len(given) <= 1 and all(isinstance(each, Mapping) for each in given))
    rope: Mapping[str, Any] = given[0] if given else {}
    if not is_by_layer:
        return {"": _rope(rope, values, is_of_phi=is_of_phi)}
    if values.get("rope_parameters") is not None:
        require(rope.keys() == set(LAYER_KINDS) and all(isinstance(each, Mapping) for each in rope.values()))
        ropes = {kind: _rope(rope[kind], {}, is_of_phi=False) for kind in LAYER_KINDS}
        # For these, transformers looks elsewhere
        require(all(each.truncate and each.kind != "longrope" for each in ropes.values()))
        return ropes
    require("rope_local_base_freq" in values)
    require("longrope" not in (rope.get("rope_type"), rope.get("type")))
    local = {"rope_theta": values["rope_local_base_freq"]}
    return {
        "full_attention": _rope(rope, values, is_of_phi=False),
        "sliding_attention": _rope({}, local, is_of_phi=False),
    }


def _rope(rope: Mapping[str, Any], values: Mapping[str, Any], *, is_of_phi: bool) -> Rope:
    """One of them, of which some fields may stand beside it."""
    kinds = {rope[name] for name in ("rope_type", "type") if isinstance(rope.get(name), str)} or {"default"}
    thetas = {each["rope_theta"] for each in (rope, values) if is_number(each.get("rope_theta"))}
    require(len(kinds) == len(thetas) == 1)
    kind: str = kinds.pop()
    require(kind in NUMBERS)
    known = cast(RopeKind, kind)
    more = [name for name in MORE_NUMBERS.get(kind, ()) if name in rope]
    allowed = {"rope_type", "type", "rope_theta", *NUMBERS[known], *more} | MORE_FIELDS.get(kind, set())
    allowed |= {"partial_rotary_factor"} if is_of_phi else set()
    require(rope.keys() <= allowed)
    numbers: dict[str, Any] = {name: positive(rope.get(name)) for name in (*NUMBERS[known], *more)}
    if kind == "llama3":
        require(numbers["low_freq_factor"] < numbers["high_freq_factor"])
    if kind == "longrope":
        numbers |= _by_length(rope, values, is_of_phi=is_of_phi)
    require(type(rope.get("truncate", True)) is bool)
    name = "partial_rotary_factor"
    shares = {positive(each[name]) for each in (rope, values) if name in each} or {1.0}
    share = shares.pop()
    require(not shares and share <= 1)
    return Rope(known, positive(thetas.pop()), share, **numbers, truncate=rope.get("truncate", True))


def _by_length(rope: Mapping[str, Any], values: Mapping[str, Any], *, is_of_phi: bool) -> dict[str, Any]:
    """Fields of LongRoPE; by how much the model's context is longer than the original may be told by the two alone."""
    longest, name = size(values.get("max_position_embeddings")), "original_max_position_embeddings"
    original = size(values.get(name) if is_of_phi else rope.get(name, longest))
    factors = {each: rope.get(each) for each in ("short_factor", "long_factor")}
    require(original > 1 and all(isinstance(each, list) for each in factors.values()))
    return {
        name: original,
        "factor": positive(rope.get("factor", longest / original)),
        **{each: tuple(positive(value) for value in given or ()) for each, given in factors.items()},
    }
