"""A TensorRT plan against the reference, on the GPU, on every profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tritonrepo import verify as verification
from tritonrepo._plan_session import PlanSession
from tritonrepo.introspect import Signature
from tritonrepo.plan import Plan, Profile
from tritonrepo.prepare import Prepared
from tritonrepo.spec import ModelSpec, precision_of
from tritonrepo.verify import Verdict


def prove_plan(
    model: ModelSpec, signature: Signature, prepared: Prepared, chosen: Plan, plan: Path, profiles: Sequence[Profile]
) -> Verdict:
    """Compare a plan with ONNX Runtime: at min, opt and max of each of its profiles, run on that profile, or on the
    user's samples, each on the profile that the server's backend would take.

    Args:
        model: its settings.
        signature: of the original file.
        prepared: the file that the plan was built from.
        chosen: what will be served.
        plan: the plan's file.
        profiles: those of the plan, in its order.

    Raises:
        ModelError: the plan does not run on its own profiles.
        EngineError: the GPU cannot be used.
    """
    precision = tolerated(model)
    with PlanSession(plan, model.tensorrt, prepared.path) as session:
        if model.verification.samples:
            whole = replace(chosen, profiles=tuple(profiles))
            return verification.verify(model, signature, prepared, whole, lambda: session, precision)
        verdicts = []
        for number, profile in enumerate(profiles):
            session.profile = number
            one = replace(chosen, profiles=(profile,))
            verdicts.append(verification.verify(model, signature, prepared, one, lambda: session, precision))
    return _joined(verdicts)


def tolerated(model: ModelSpec) -> str:
    """The precision whose tolerances hold: FP32 layers that may round their inputs to TF32 are no FP32."""
    precision = precision_of(model).type
    return "tf32" if precision == "fp32" and model.tensorrt.tf32 else precision


def _joined(verdicts: Sequence[Verdict]) -> Verdict:
    if len(verdicts) == 1:
        return verdicts[0]
    independent = {verdict.rows_independent for verdict in verdicts}
    return replace(
        verdicts[0],
        ok=all(verdict.ok for verdict in verdicts),
        rows_independent=None if None in independent else independent == {True},
        rows_reason=next((verdict.rows_reason for verdict in verdicts if verdict.rows_reason), None),
        errors=tuple(
            replace(error, at=f"{error.at} of profile {number}")
            for number, verdict in enumerate(verdicts)
            for error in verdict.errors
        ),
    )
