# LeRobot itself reads what `annotator sync` writes. Run by `make check-lerobot`; see docs/check_lerobot.md.
# LEROBOT_PYTHON names a Python that has lerobot[dataset]; without it one is set up in .venv-lerobot (several GB).
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
"$BIN/python" examples/make_sample.py "$work/sample" >/dev/null
cp -r tests/data/cr5_banana tests/data/so101_static "$work"
for name in sample cr5_banana so101_static; do
  echo "== $name"
  "$BIN/annotator" sync "$work/$name" --vlm.backend signals 2>/dev/null
  HF_HUB_OFFLINE=1 "$PY" tests/lerobot/check_lerobot.py "$work/$name"
done
