#!/usr/bin/env bash
# Resolves every extra in a throw-away environment and pins what came out. $1: the Python to resolve for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$1" -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -qq 'torch==2.14.1' -e '.[cpu,hf,cluster,render,test,dev]'
{
    echo "# Every version that \`make\` installs, on any extra. Used as constraints: pip install -c requirements/lock.txt -e '.[cpu]'"
    echo "# Made by \`make lock\` under Python 3.11 on Linux x86_64; do not edit by hand."
    "$folder/env/bin/python" -m pip freeze --exclude-editable | grep -v '@'
} >requirements/lock.txt
