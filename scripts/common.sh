# Words that every set-up script needs. Sourced, never run.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }

# Infrastructure is missing and only a person can bring it: exit code 4, as in the product itself.
give_up() {
  say "$@"
  exit 4
}

have() { command -v "$1" >/dev/null 2>&1; }

# Whether this machine's packages are ours to install.
may_install() { [ "$(id -u)" = 0 ] && have apt-get; }

apt_install() {
  local install=(apt-get -qq -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@")
  say "installing $*"
  export DEBIAN_FRONTEND=noninteractive
  # The package lists may be missing or stale, which only trying shows. A third-party source that does not answer must
  # not stop us either: whether the lists are good enough is for the second try to say.
  "${install[@]}" >/dev/null 2>&1 </dev/null && return
  apt-get -qq update >&2 || true
  "${install[@]}" >&2 </dev/null
}
