#!/bin/bash
# Makes sure that the servers are there that the tests start, each for itself on
# the loopback interface: PostgreSQL and memcached. What is missing is installed
# from the packages of Debian or Ubuntu if that can be done without a password,
# so that no server is started by its package. Otherwise it says what to install.
set -euo pipefail

need=()
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || need+=(postgresql)
command -v memcached >/dev/null || need+=(memcached)
[ ${#need[@]} != 0 ] || exit 0

fail() {
  echo "The tests need programs that are not here and $1. Install the packages: ${need[*]}" >&2
  exit 1
}

if [ "$(id -u)" = 0 ]; then
  root=()
elif sudo -n true 2>/dev/null; then
  root=(sudo -n)
else
  fail "can be installed by root only"
fi
command -v apt-get >/dev/null || fail "there is no apt-get"

"${root[@]}" bash -euo pipefail -s "${need[@]}" >&2 <<'END' || fail "could not be installed"
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d # asked before a package starts a server
if [ ! -e $policy ]; then
  trap 'rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
fi
install() {
  apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" </dev/null
}
ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || apt-get update -qq
for package; do
  if [ "$package" = postgresql ]; then
    install postgresql-common
    # The package makes no database of its own, to be started with the machine.
    sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
  fi
  install "$package"
done
END
