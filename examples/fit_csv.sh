#!/bin/sh
# Fit a router on a CSV file: a line per prompt, a column of scores per model. Writes outcomes.jsonl.gz and artifact/.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
thalamus import "$here/scores.csv" outcomes.jsonl.gz --model small=openai/gpt-5-mini --model large=openai/gpt-5
thalamus fit outcomes.jsonl.gz artifact --encoder none --jobs 1
