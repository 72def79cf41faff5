# LeRobot itself reads what `annotator sync` writes. Run by `make check-lerobot`; see docs/check_lerobot.md.
# LEROBOT_PYTHON names a Python that has lerobot[dataset]; without it one is set up in .venv-lerobot (several GB).
# RECIPES names a folder of recipe files to render as well.
set -eu
cd "$(dirname "$0")/../.."
BIN=${BIN:-.venv/bin}
PY=${LEROBOT_PYTHON:-.venv-lerobot/bin/python}
if [ ! -x "$PY" ]; then
  if command -v uv >/dev/null 2>&1; then
    uv venv -q -p 3.12 .venv-lerobot
    uv pip install -q -p "$PY" 'lerobot[dataset]'
  else
    "${PYTHON312:-python3.12}" -m venv .venv-lerobot
    "$PY" -m pip install -q --disable-pip-version-check 'lerobot[dataset]'
  fi
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

look() { # DATASET [more flags of the check]
  "$BIN/annotator" export "$1" --staging "$1-staging" 2>/dev/null
  HF_HUB_OFFLINE=1 "$PY" tests/lerobot/check_lerobot.py "$@" --staging "$1-staging" ${RECIPES:+--recipes "$RECIPES"}
}

"$BIN/python" examples/make_sample.py "$work/sample" 2>/dev/null
"$BIN/python" examples/make_sample.py "$work/sample_images" --episodes 3 --image-camera 2>/dev/null
cp -r tests/data/cr5_banana "$work"
for name in sample sample_images cr5_banana; do
  echo "== $name, every module"
  "$BIN/python" -m tests.lerobot.annotate "$work/$name"
  look "$work/$name" --full
done

cp -r tests/data/so101_static "$work"
echo "== so101_static, signals: what an engine without a model gives"
"$BIN/annotator" sync "$work/so101_static" --vlm.backend signals 2>/dev/null
look "$work/so101_static"
