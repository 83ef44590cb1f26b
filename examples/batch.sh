#!/bin/sh
# Answer a file of requests without a server. Needs a thalamus.yaml with the experts that the file names.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ -f thalamus.yaml ] || printf 'experts:\n  - {name: calculator, tool: calculator}\n' > thalamus.yaml
thalamus batch run "$here/requests.jsonl" answers.jsonl
cat answers.jsonl
