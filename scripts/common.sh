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
  say "installing $*"
  # A third-party source that does not answer must not stop us: whether the lists are good enough, install will say.
  if ! apt-cache show "$@" >/dev/null 2>&1; then apt-get -qq update >&2 || true; fi
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@" \
    >&2 </dev/null
}
