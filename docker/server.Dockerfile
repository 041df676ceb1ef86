# Triton with onnxruntime for Python, which models of `engine: python` need and the image from NGC does not have.
# Repositories whose models are all `engine: tensorrt` or `engine: onnxruntime` need no image of their own.
#
#   docker build -f docker/server.Dockerfile --build-arg TRITON_RELEASE=26.09 -t tritonrepo-server:26.09 docker
#   tritonrepo serve --with docker --image tritonrepo-server:26.09
#
# For instances on GPUs add: --build-arg ONNXRUNTIME=onnxruntime-gpu==1.31.1

ARG TRITON_RELEASE=26.09
FROM nvcr.io/nvidia/tritonserver:${TRITON_RELEASE}-py3

ARG ONNXRUNTIME=onnxruntime==1.31.1
# The image's Python backend goes with NumPy 1; the bound keeps pip from replacing it.
RUN pip3 install --no-cache-dir --break-system-packages "${ONNXRUNTIME}" "numpy<2"

# The image's own unprivileged user, triton-server.
USER 1000:1000
