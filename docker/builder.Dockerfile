# Where TensorRT plans are built: the server's own image, so that they are of its TensorRT by construction.
#
#   docker build -f docker/builder.Dockerfile --build-arg TRITON_RELEASE=26.09 -t tritonrepo-builder:26.09 .
#   tritonrepo build --in docker
#
# The image from NGC has TensorRT's libraries (libnvinfer, the ONNX parser) and no Python bindings to them. Those of the
# very same version are installed beside tritonrepo, in a folder of their own: the image's Python stays as it is.

ARG TRITON_RELEASE=26.09
FROM nvcr.io/nvidia/tritonserver:${TRITON_RELEASE}-py3

# Only where the image does not say which TensorRT it has: its version with build number, and CUDA's major version.
ARG TENSORRT=
ARG CUDA=

WORKDIR /opt/tritonrepo/source
COPY docker/tensorrt_bindings.py docker/
RUN python3 docker/tensorrt_bindings.py install --target /opt/tritonrepo/site --tensorrt "${TENSORRT}" --cuda "${CUDA}"

COPY pyproject.toml constraints.txt README.md LICENSE CHANGELOG.md ./
COPY builder builder
COPY templates templates
COPY client client
RUN pip3 install --no-cache-dir --disable-pip-version-check --target /opt/tritonrepo/site \
        --constraint constraints.txt . ./client

ENV PYTHONPATH=/opt/tritonrepo/site \
    PATH=/opt/tritonrepo/site/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1

# Says it now, and not after minutes of a build, if bindings and library do not fit. There is no GPU at this time.
RUN python3 docker/tensorrt_bindings.py check

LABEL tritonrepo.release=${TRITON_RELEASE}
WORKDIR /
USER 1000:1000
ENTRYPOINT []
CMD ["tritonrepo", "doctor"]
