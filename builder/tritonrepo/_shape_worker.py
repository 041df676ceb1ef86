"""Run by path, in a process of its own: shape inference of the onnx library, without the library's Python part.

    python -I -S _shape_worker.py EXTENSION SECONDS BYTES < model > model with shapes

The process knows nothing but the extension module that it is told to load; this keeps its start to a few hundredths of
a second. A model that crashes the extension, or makes it loop or take memory, ends this process and nothing else.
"""

import resource
import sys
from importlib.util import module_from_spec, spec_from_file_location

#: Exit status where the extension refuses a model; what it says is on standard error.
REFUSED = 3
#: Exit status where the limit of memory was reached.
NO_MEMORY = 4


def main() -> int:
    """Read a model, infer, write it."""
    extension, seconds, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    spec = spec_from_file_location("onnx_cpp2py_export", extension)
    if spec is None or spec.loader is None:
        return 1
    library = module_from_spec(spec)
    spec.loader.exec_module(library)
    model = sys.stdin.buffer.read()
    try:
        if "--inline" in sys.argv[4:]:
            model = library.inliner.inline_local_functions(model, False)
        # Not strict, no check of types: what one node makes impossible is left open, the others go on.
        model = library.shape_inference.infer_shapes(model, False, False, "--values" in sys.argv[4:])
    except MemoryError:
        return NO_MEMORY
    except Exception as error:
        return _refused(" ".join(str(error).split())[:300])
    sys.stdout.buffer.write(model)
    return 0


def _refused(words: str) -> int:
    sys.stderr.write(words)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
