# The demo: annotate the sample, do it again, look at the rows. Run by `make demo`.
set -eu
: "${BIN:=.venv/bin}" "${DEMO:=.demo/sample}"
run() { printf '\n$ annotator'; for a in "$@"; do case $a in *' '*) printf ' "%s"' "$a" ;; *) printf ' %s' "$a" ;; esac; done; echo; "$BIN/annotator" "$@"; }

run sync "$DEMO" --vlm.backend signals
run sync "$DEMO" --vlm.backend signals
run query --root "$DEMO" "SELECT round(timestamp, 1) AS t, coalesce(style, 'say') AS style, coalesce(content, tool_calls[1]::JSON->>'\$.function.arguments.text') AS text FROM rows WHERE episode_index = 0 AND coalesce(style, 'say') IN ('subtask', 'memory', 'interjection', 'say') ORDER BY t, style DESC"
run query --root "$DEMO" "SELECT coalesce(style, 'say') AS style, count(*) AS rows, any_value(engine) AS engine FROM rows GROUP BY ALL ORDER BY style"
run validate "$DEMO"
run verify "$DEMO"

cat <<TEXT

These rows were written by the signals engine: no model looked at the footage. To have a VLM watch it instead, start one
and name it; the same command then asks only what that model has not answered yet:

  annotator sync $DEMO --vlm.api_base http://localhost:8000/v1 --vlm.model_id Qwen/Qwen3-VL-8B-Instruct
TEXT
