#!/bin/sh
# Serves the repository at $SURG_REPOSITORY (default /models). In NVIDIA's image that is its own tritonserver; elsewhere the server
# of the nvidia-pytriton wheel in $SURG_TRITON_ENV, with our Python-based onnxruntime backend. More flags for it: as arguments.
set -eu
REPOSITORY=${SURG_REPOSITORY:-/models}
ADDRESS=${SURG_ADDRESS:-0.0.0.0}
if [ ! -e "$REPOSITORY" ] || [ -z "$(find "$REPOSITORY" -mindepth 2 -maxdepth 2 -name config.pbtxt 2>/dev/null | head -n 1)" ]; then
  echo "error: $REPOSITORY holds no model repository. Mount one made by surg export: -v \$PWD/repo:/models:ro" >&2
  exit 2
fi
# `tritonserver --flags`, as NVIDIA's entry point takes it, is understood too.
if [ "${1:-}" = tritonserver ]; then shift; fi
case " $*" in *" --model-repository="*) ;; *) set -- --model-repository="$REPOSITORY" "$@" ;; esac
set -- \
  --http-address="$ADDRESS" --http-port="${SURG_HTTP_PORT:-8000}" \
  --grpc-address="$ADDRESS" --grpc-port="${SURG_GRPC_PORT:-8001}" \
  --metrics-address="$ADDRESS" --metrics-port="${SURG_METRICS_PORT:-8002}" \
  --disable-auto-complete-config --strict-readiness=true --metrics-config=summary_latencies=true --exit-timeout-secs="${SURG_EXIT_TIMEOUT:-10}" "$@"
if [ -n "${SURG_ADMIN_KEY:-}" ]; then
  # Loading a model runs code: with a key the server can be told to, without one not at all.
  set -- --model-control-mode=explicit --load-model='*' \
    --http-restricted-api="model-repository:surg-admin=$SURG_ADMIN_KEY" --grpc-restricted-protocol="model-repository:surg-admin=$SURG_ADMIN_KEY" "$@"
fi
if command -v tritonserver >/dev/null 2>&1; then
  exec tritonserver "$@"
fi

ENVIRONMENT=${SURG_TRITON_ENV:-/opt/triton}
SITE=$(find "$ENVIRONMENT/lib" -maxdepth 2 -name site-packages | head -n 1)
PYTHON=$(basename "$(dirname "$SITE")")
WORK=$(mktemp -d)
mkdir -p "$WORK/backends/python" "$WORK/empty"
# Copies: Triton refuses a backend library that lies outside its backend folder.
cp "$SITE/pytriton/tritonserver/backends/python/libtriton_python.so" "$SITE/pytriton/tritonserver/backends/python/triton_python_backend_utils.py" \
  "$SITE/pytriton/tritonserver/python_backend_stubs/${PYTHON#python}/triton_python_backend_stub" "$WORK/backends/python/"
cp -r "${SURG_BACKENDS:-/opt/surg/backend}/onnxruntime" "$WORK/backends/onnxruntime"
LIBPYTHON=$("$ENVIRONMENT/bin/python" -I -c 'import os, sys, sysconfig; n = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"; print(next((d for d in (sysconfig.get_config_var("LIBDIR"), sys.base_prefix + "/lib") if d and os.path.exists(os.path.join(d, n))), ""))')
export LD_LIBRARY_PATH="${LIBPYTHON:+$LIBPYTHON:}$SITE/nvidia_pytriton.libs"
export PATH="$ENVIRONMENT/bin:$PATH"
unset PYTHONPATH PYTHONHOME
# An empty folder: the stub imports a module named `model`, and one that lies in the working folder would win.
cd "$WORK/empty"
exec "$SITE/pytriton/tritonserver/bin/tritonserver" --backend-directory="$WORK/backends" --cache-directory="$SITE/pytriton/tritonserver/caches" \
  --allow-gpu-metrics=false "$@"
