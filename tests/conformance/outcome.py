"""What became of a case, and whether that is right."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

#: served: equal to what the case expects. runtime: as ONNX Runtime answers, which is not what the case expects, or its
#: refusal of the case's values. refused: before publishing, by a reason that names what is in the way. failed: else.
Verdict = Literal["served", "runtime", "refused", "failed"]

#: Reasons that may refuse a case: words in the message -> what is in the way. The first that fits counts.
_REASONS: tuple[tuple[str, str], ...] = (
    (r"is of type (sequence|optional|map|sparse tensor)", "type: {0}"),
    (r"has element type (\w+), which Triton cannot carry", "type: {0}"),
    (r"is (bfloat16|BF16)", "type: bfloat16"),
    (r"has IR version (\d+); onnxruntime", "version: IR {0}"),
    (r"has opset (\d+)(?: of (\S+))?; onnxruntime", "version: opset {0}"),
    (r"operator (\S+) is not known to onnxruntime", "operator: {0}, unknown to ONNX Runtime"),
    (r"operator (\S+) \(version (\d+)\) is not implemented", "operator: {0} {1}, not implemented in ONNX Runtime"),
    (r"operator (\w+)(?: \(node [^)]*\))?: Unrecognized attribute: (\w+)", "attribute: {1} of {0}"),
    (r"operator StringNormalizer: Failed to construct locale", "feature: a locale that this machine lacks"),
    (r"operator (\w+)(?: \(node [^)]*\))?: ", "operator: {0}, refuses this form of it"),
    (r"of operator \((\w+)\)|Optype \((\w+)\)", "operator: types of {0}"),
    (r"while running (\w+) node", "operator: {0}, refuses these values"),
    (r"(Dropout) .*training mode", "operator: {0} in training mode"),
    (r"operator (\w+) gives other answers at every run", "operator: {0}, random"),
)
#: Refusals that are right whatever ONNX Runtime makes of a case: Triton or its Python backend has no such type.
_TYPES = ("type:",)


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        id: the case's.
        reference: ONNX Runtime's own verdict; see reference.py.
        reference_said: its words, or what differs.
        stage: where it ended: ``build`` (refused), ``serve`` (not loaded or not answered), ``answer``.
        said: the refusal, the server's words, or how the answer differs; empty where all was equal.
        samples: whether the build got the case's inputs as verification.samples, because generated ones did not do.
        rows: of a variant with a dynamic batch: ``equal``, why it is not batched, how rows differ; or empty where the
            case allows none.
        batch: max_batch_size of that variant.
        seconds: of the build and of loading and asking.
    """

    id: str
    reference: str
    reference_said: str
    stage: str
    said: str
    samples: bool = False
    rows: str = ""
    batch: int = 0
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """Whether that is right."""
        if self.rows.startswith("failed"):
            return "failed"
        if self.stage == "answer":
            if not self.said:
                return "served" if self.reference != "differs" else "runtime"
            return "failed"
        if self.stage == "serve" and self.reference == "fails" and self.said.startswith("not answered"):
            return "runtime" if self.reason else "failed"  # for these values alone: others are answered
        if self.stage != "build" or not self.reason:
            return "failed"
        right = self.reference != "passes" or self.reason.startswith(_TYPES)
        return "refused" if right else "failed"

    @property
    def reason(self) -> str:
        """What a refusal names; empty where it names nothing that is known."""
        if self.said.startswith("a traceback"):
            return ""
        for pattern, name in _REASONS:
            if found := re.search(pattern, self.said):
                return name.format(*(group or "" for group in found.groups())).strip()
        return ""

    @property
    def batches(self) -> bool:
        """Whether rows of several requests were answered together, and rightly."""
        return self.batch > 0 and self.rows == "equal"
