# Sourced by the scripts: makes or reuses .venv beside this folder and sets $bin to its programs.
# `needs` names the extras of pyproject.toml to install; without it, what the program and tests need.
# `folder` is another name than .venv; `also` a package beside, whose own versions then count.
# Nothing is installed, and no network is needed, while the project files it was made from are the same.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/${folder:-.venv}"
bin="$venv/bin"
needs="${needs:-native,test}"
stamp="$venv/.installed-$needs"
versions=(--constraint "$root/constraints.txt")
if [[ -n "${also:-}" ]]; then versions=("$also"); fi

recent_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if recent_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "jaxsched needs Python 3.11 or later; no such python3 was found on PATH" \
    "(python3: $(python3 --version 2>/dev/null || echo none))" >&2
  return 1
}

make_venv() {
  local python
  python="$(find_python)"
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "$python has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2
    return 1
  fi
  rm -rf "$venv"
  "$python" -m venv "$venv"
}

# The path is part of it because an environment that was moved or copied does not work.
fingerprint() {
  echo "$root $("$bin/python" --version 2>&1) $(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum) ${also:-}"
}

if ! recent_enough "$bin/python"; then
  make_venv
fi
if [[ "$(cat "$stamp" 2>/dev/null)" != "$(fingerprint)" ]]; then
  echo "setting up $venv for $needs (about ${minutes:-a minute}, once)" >&2
  "$bin/python" -m pip install --quiet --disable-pip-version-check \
    "${versions[@]}" --editable "$root[$needs]" >&2
  fingerprint > "$stamp"
fi
