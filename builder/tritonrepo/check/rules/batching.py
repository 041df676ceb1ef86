"""TR4xx: dynamic batching."""

from __future__ import annotations

from collections.abc import Iterator

from tritonrepo.check._textformat import Message
from tritonrepo.check.model import Model
from tritonrepo.check.rule import Spot, Target, rule
from tritonrepo.check.rules._help import TENSORS, example

_LEVELS = "priority_levels: 2 default_priority_level: 1"
_MINUTE = 60_000_000


def _wrong(batching: str, max_batch_size: int = 8) -> dict[str, str]:
    return example(f"max_batch_size: {max_batch_size}\ndynamic_batching {{ {batching} }}{TENSORS}")


def _batching(model: Model) -> Message | None:
    batching: Message = model.config.get("dynamic_batching")
    return batching if model.config.has("dynamic_batching") else None


@rule(
    "TR401",
    "reject",
    "preferred batch sizes lie within 1 and max_batch_size",
    "The batcher can form no other batches.",
    wrong=_wrong("preferred_batch_size: [ 4, 16 ]"),
    right=_wrong("preferred_batch_size: [ 4, 8 ]"),
)
def preferred_sizes_are_possible(model: Model, target: Target) -> Iterator[Spot]:
    batching = _batching(model)
    if batching is None or not batching.has("preferred_batch_size"):
        return
    limit = model.config.get("max_batch_size")
    for index, size in enumerate(batching.all("preferred_batch_size")):
        if not 1 <= size <= limit:
            message = f"the preferred batch size {size} does not lie within 1 and max_batch_size, {limit}"
            hint = (
                "Change one of the two." if limit > 0 else "Set max_batch_size; 0 says that the model does not batch."
            )
            yield model.spot("preferred_batch_size", message, hint, within=batching, index=index)


@rule(
    "TR402",
    "reject",
    "default_priority_level is one of the priority levels",
    "With priority_levels, default_priority_level has to say which of them, from 1, a request without a priority has.",
    wrong=_wrong("priority_levels: 2"),
    right=_wrong(_LEVELS),
)
def default_level_exists(model: Model, target: Target) -> Iterator[Spot]:
    batching = _batching(model)
    if batching is None or not batching.has("priority_levels"):
        return
    levels, level = batching.get("priority_levels"), batching.get("default_priority_level")
    if levels and not 1 <= level <= levels:
        field = "default_priority_level" if batching.has("default_priority_level") else "priority_levels"
        message = f"default_priority_level is {level}, and levels go from 1 to {levels}"
        yield model.spot(field, message, "Set default_priority_level to one of them.", within=batching)


@rule(
    "TR403",
    "reject",
    "queue policies belong to priority levels",
    "The keys of priority_queue_policy are levels from 1 to priority_levels.",
    wrong=_wrong(f"{_LEVELS} priority_queue_policy {{ key: 3 value {{ max_queue_size: 9 }} }}"),
    right=_wrong(f"{_LEVELS} priority_queue_policy {{ key: 2 value {{ max_queue_size: 9 }} }}"),
)
def policies_have_levels(model: Model, target: Target) -> Iterator[Spot]:
    batching = _batching(model)
    if batching is None or not batching.has("priority_queue_policy"):
        return
    levels = batching.get("priority_levels")
    for index, entry in enumerate(batching.all("priority_queue_policy")):
        if levels and not 1 <= entry.get("key") <= levels:
            message = f"there is no level {entry.get('key')}: levels go from 1 to {levels}"
            yield model.spot("priority_queue_policy", message, "Correct the key.", within=batching, index=index)


@rule(
    "TR404",
    "reject",
    "preserve_ordering leaves nothing that changes the order",
    "Several priority levels let requests overtake each other, and so does a policy that delays late ones. Neither "
    "goes with preserve_ordering.",
    wrong=_wrong(f"preserve_ordering: true {_LEVELS}"),
    right=_wrong(_LEVELS),
)
def order_can_be_kept(model: Model, target: Target) -> Iterator[Spot]:
    batching = _batching(model)
    if batching is None or not batching.get("preserve_ordering"):
        return
    if batching.get("priority_levels") > 1:
        message = "priority levels let requests overtake each other, which preserve_ordering forbids"
        yield model.spot("priority_levels", message, "Take one of the two out.", within=batching)
    for policy in (batching.get("default_queue_policy"), *batching.map("priority_queue_policy").values()):
        if policy.get("timeout_action") == "DELAY" and policy.get("default_timeout_microseconds"):
            message = "DELAY puts late requests behind others, which preserve_ordering forbids"
            yield model.spot("timeout_action", message, "Write REJECT, or take the timeout out.", within=policy)


@rule(
    "TR405",
    "breaks",
    "requests wait for others only as long as clients wait for answers",
    "A request waits for others until a batch is full, or a preferred size is reached, but at most "
    "max_queue_delay_microseconds. With a delay of minutes a request that no others follow runs into its client's "
    "timeout; one near 2^64 microseconds never ends.",
    wrong=_wrong("max_queue_delay_microseconds: 600000000"),
    right=_wrong("max_queue_delay_microseconds: 600"),
)
def delay_is_short(model: Model, target: Target) -> Iterator[Spot]:
    batching = _batching(model)
    if batching is not None and batching.get("max_queue_delay_microseconds") > _MINUTE:
        seconds = batching.get("max_queue_delay_microseconds") // 1_000_000
        message = f"a request may wait {seconds} seconds for others"
        yield model.spot("max_queue_delay_microseconds", message, "It is in microseconds.", within=batching)


@rule(
    "TR406",
    "advice",
    "dynamic batching is for models that batch",
    "With max_batch_size 0 the batcher has nothing to put together: each request is executed by itself.",
    wrong=_wrong("", 0),
    right=_wrong(""),
)
def model_batches(model: Model, target: Target) -> Iterator[Spot]:
    if not model.config.has("dynamic_batching") or model.config.get("max_batch_size") != 0:
        return
    # Where it is not written, the backend may fill it in.
    if model.config.has("max_batch_size") or model.backend not in _COMPLETE_THE_BATCH:
        message = "dynamic_batching does nothing, because max_batch_size is 0"
        yield model.spot("dynamic_batching", message, "Set max_batch_size, or take dynamic_batching out.")


_COMPLETE_THE_BATCH = frozenset({"onnxruntime", "openvino", "python", "tensorflow", "tensorrt"})


@rule(
    "TR407",
    "advice",
    "priorities come with priority_levels",
    "Without priority_levels there is one queue. priority_queue_policy and default_priority_level then have no effect.",
    wrong=_wrong("priority_queue_policy { key: 1 value { max_queue_size: 9 } }"),
    right=_wrong(f"{_LEVELS} priority_queue_policy {{ key: 1 value {{ max_queue_size: 9 }} }}"),
)
def priorities_have_levels(model: Model, target: Target) -> Iterator[Spot]:
    batching = _batching(model)
    if batching is None or batching.get("priority_levels"):
        return
    for field in ("default_priority_level", "priority_queue_policy"):
        if batching.has(field):
            message = f"{field} has no effect without priority_levels"
            yield model.spot(field, message, "Set priority_levels, or take it out.", within=batching)


@rule(
    "TR408",
    "advice",
    "a timeout that requests may shorten is there",
    "With allow_timeout_override a request may ask for a shorter timeout than default_timeout_microseconds. Where that "
    "is 0, no timeout, the server ignores what requests ask for.",
    wrong=_wrong("default_queue_policy { allow_timeout_override: true }"),
    right=_wrong("default_queue_policy { allow_timeout_override: true default_timeout_microseconds: 5000000 }"),
)
def timeout_can_be_overridden(model: Model, target: Target) -> Iterator[Spot]:
    batching = _batching(model)
    if batching is None or not (batching.has("default_queue_policy") or batching.has("priority_queue_policy")):
        return
    for policy in (batching.get("default_queue_policy"), *batching.map("priority_queue_policy").values()):
        if policy.get("allow_timeout_override") and not policy.get("default_timeout_microseconds"):
            message = "requests cannot shorten a timeout that is not there"
            hint = "Set default_timeout_microseconds to the longest that is allowed."
            yield model.spot("allow_timeout_override", message, hint, within=policy)
