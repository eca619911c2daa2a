#!/usr/bin/env bash
# Debian packages that tests use: a browser, software OpenGL, sample videos nobody here made. Installs what is missing when it may;
# otherwise names it. Nothing in the product itself needs them but Chromium's absence costs the browser tests.
set -euo pipefail
packages=(chromium libegl1 libegl-mesa0 libgl1-mesa-dri libgles2 opencv-doc)
command -v dpkg-query >/dev/null || { echo "Not a Debian system: tests that need Chromium, EGL or Debian's sample videos will say what they miss." >&2; exit 0; }
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ "${#missing[@]}" -eq 0 ] && exit 0
if [ "$(id -u)" -eq 0 ]; then
    sudo=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo=(sudo)
else
    echo "Please install for the tests: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 0
fi
echo "Installing for the tests: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -qq >&2
"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
