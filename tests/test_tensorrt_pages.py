"""docs/trtexec.md and docs/tensorrt.md name settings that exist, all of them, and every build option of trtexec."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tritonrepo.spec import Dla, MemoryPools, ModelSpec, Spec, TensorRT, load_spec

DOCS = Path(__file__).parents[1] / "docs"

#: Options under "Build Options" and "System Options" of trtexec's help, TensorRT 11.
TRTEXEC = """
minShapes optShapes maxShapes inputIOFormats outputIOFormats memPoolSize profilingVerbosity avgTiming refit
stripWeights stripAllWeights versionCompatible pluginInstanceNorm uint8AsymmetricQuantizationDLA reportCapabilityDLA
adjustForDLA enablePluginOverride useRuntime leanDLLPath excludeLeanRuntime monitorMemory sparsity noTF32
stronglyTyped directIO layerDeviceTypes decomposableAttentions safe dumpKernelText buildDLAStandalone
allowGPUFallback consistency saveEngine loadEngine asyncFileReader getPlanVersionOnly tacticSources noBuilderCache
noCompilationCache errorOnTimingCacheMiss timingCacheFile preview builderOptimizationLevel maxTactics
hardwareCompatibilityLevel runtimePlatform tempdir tempfileControls maxAuxStreams profile allowWeightStreaming
markDebug markUnfusedTensorsAsDebugTensors tilingOptimizationLevel l2LimitForTiling remoteAutoTuningConfig
refitFromOnnx cpuOnly device useDLACore staticPlugins dynamicPlugins setPluginsToSerialize ignoreParsedPluginLibs
safetyPlugins
"""


def test_every_option_of_trtexec_is_there() -> None:
    page = (DOCS / "trtexec.md").read_text()
    named = set(re.findall(r"`--(\w+)", page))
    assert set(TRTEXEC.split()) - named == set()


def test_every_setting_of_the_block_is_named_and_none_else() -> None:
    page = (DOCS / "trtexec.md").read_text()
    named = set(re.findall(r"`\.([\w.]+)", page))
    nested = {f"memory_pools.{name}" for name in MemoryPools.model_fields} | {
        f"dla.{name}" for name in Dla.model_fields
    }
    own = set(TensorRT.model_fields) - {"memory_pools", "dla"}
    assert named == own | nested


def test_the_examples_load(tmp_path: Path) -> None:
    """Fragments of a model go below one, fragments of the file above."""
    page = (DOCS / "tensorrt.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 4
    for example in examples:
        (tmp_path / "detector.onnx").touch()
        text = example
        if not example.startswith("models:"):
            top = "" if example.startswith(" ") else example
            text = f"{top}models:\n  - onnx: detector.onnx\n{example if example.startswith(' ') else ''}"
        (tmp_path / "models.yaml").write_text(text)
        assert isinstance(load_spec(tmp_path / "models.yaml"), Spec)
        assert set(yaml.safe_load(text)["models"][0]) <= set(ModelSpec.model_fields)
